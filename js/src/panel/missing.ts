/** The line above the map: which chosen layers are missing, and how to compute them. */

import { missingWords } from "../map/words.ts";
import type { Session } from "../state/session.ts";
import { h, icon, setText } from "../ui/dom.ts";
import { Restart } from "./restart.ts";

const HELP = "Discards this run, and computes all chosen layers from its start";

export class Missing {
  readonly element: HTMLElement;
  private readonly session: Session;
  private readonly words = h("span", { class: "cka-missing-words", role: "status" });
  private readonly label = h("span");
  private readonly button: HTMLButtonElement;
  private readonly restart: Restart;

  constructor(session: Session) {
    this.session = session;
    this.restart = new Restart(session, () => this.drawLabel());
    const props = { class: "cka-button", type: "button", title: HELP, hidden: true };
    const onclick = () => this.restart.click();
    this.button = h("button", { ...props, onclick }, icon("restart"), this.label);
    this.element = h("div", { class: "cka-missing" }, this.words, this.button);
    this.drawLabel();
  }

  draw(): void {
    const { run, choice, comparison, frames } = this.session;
    const words = missingWords(comparison.names, choice, frames.shown, run);
    setText(this.words, words);
    this.setButton(words !== "" && run.isQueued);
  }

  /** A button that goes leaves the keyboard's focus in the explorer. */
  private setButton(isShown: boolean): void {
    if (isShown === !this.button.hidden) return;
    const root = this.button.getRootNode() as Document | ShadowRoot;
    const hadFocus = root.activeElement === this.button;
    this.button.hidden = !isShown;
    this.restart.forget();
    if (hadFocus) this.element.closest<HTMLElement>(".cka")?.focus();
  }

  private drawLabel(): void {
    setText(this.label, this.restart.label("Restart now"));
  }
}
