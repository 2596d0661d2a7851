/** What the front end loads: a session for each model, a view for each of its displays. */

import { keyOf, type Model } from "./protocol.ts";
import { Session } from "./state/session.ts";
import { errorText } from "./ui/format.ts";
import { mount } from "./view.ts";

/** By the key of the explorer: each hook gets its own proxy of the same model. */
const sessions = new Map<string, Session>();

function sessionOf(model: Model): Session {
  const key = keyOf(model);
  const known = sessions.get(key);
  if (known) return known;
  const session = new Session(model);
  sessions.set(key, session);
  return session;
}

/** Synchronous: messages wait for it, and after two seconds the front end gives up. */
function initialize({ model }: { model: Model }): () => void {
  const key = keyOf(model);
  sessions.get(key)?.close();
  sessions.delete(key);
  const session = sessionOf(model);
  return () => {
    session.close();
    if (sessions.get(key) === session) sessions.delete(key);
  };
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  try {
    return mount(model, sessionOf(model), el);
  } catch (error) {
    el.append(`The explorer cannot be drawn. ${errorText(error)}`);
    return () => el.replaceChildren();
  }
}

export default { initialize, render };
