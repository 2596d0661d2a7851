/**
 * What the front end evaluates for each explorer, saves with it and keeps for ever. It is
 * therefore small: it only finds the page's code, which is evaluated once a page.
 */

import { imported, onceAPage } from "./once.ts";
import {
  CUSTOM_MESSAGE,
  LARGE_TRAITS,
  type Model,
  pageCodeOf,
  say,
} from "./protocol.ts";

interface Hooks {
  initialize(props: { model: Model }): () => void;
  render(props: { model: Model; el: HTMLElement }): () => void;
}

/** A hash that tells builds apart; set by `build.mjs`. */
declare const BUILD: string;
const KERNEL_TIMEOUT_MS = 20000;

function loaded(model: Model): Promise<Hooks> {
  return onceAPage("code", BUILD, async () => {
    return (await imported(await codeFor(model))) as Hooks;
  });
}

async function codeFor(model: Model): Promise<string> {
  try {
    const code = await pageCodeOf(model);
    if (code) return code;
  } catch {
    // This front end cannot resolve the reference: ask the kernel instead.
  }
  return requested(model);
}

function requested(model: Model): Promise<string> {
  return new Promise((resolve, reject) => {
    const hear = (content: { kind?: string; code?: string }) => {
      if (content?.kind !== "code") return;
      settle();
      resolve(String(content.code));
    };
    const settle = () => {
      clearTimeout(timer);
      model.off(CUSTOM_MESSAGE, hear);
    };
    const timer = setTimeout(() => {
      settle();
      reject(new Error("The kernel did not send its code. Run the cell again."));
    }, KERNEL_TIMEOUT_MS);
    model.on(CUSTOM_MESSAGE, hear);
    model.send(say.needCode());
  });
}

/** Runs a hook once the code is loaded, and its clean-up when asked to. */
function later(
  model: Model,
  hook: (hooks: Hooks) => () => void,
  failed: (error: unknown) => void,
): () => void {
  let isGone = false;
  let clean: (() => void) | undefined;
  loaded(model).then((hooks) => {
    if (!isGone) clean = hook(hooks);
  }, failed);
  return () => {
    isGone = true;
    clean?.();
  };
}

/**
 * Synchronous: messages wait for it, and after two seconds the front end gives up. What
 * the kernel sends before the code is loaded it sends again once a session is ready.
 */
function initialize({ model }: { model: Model }): () => void {
  const close = later(
    model,
    (hooks) => hooks.initialize({ model }),
    () => {}, // Each view reports it.
  );
  return () => {
    close();
    // JupyterLab keeps closed models for as long as the page lives.
    for (const name of LARGE_TRAITS) model.set(name, null);
  };
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  return later(
    model,
    (hooks) => hooks.render({ model, el }),
    (error) => el.append(`The explorer cannot be drawn. ${String(error)}`),
  );
}

export default { initialize, render };
