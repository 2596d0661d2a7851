/** The head of a view: names, run and pause, progress, the message, the notes. */

import type { CommandName, Status } from "../protocol.ts";
import type { Change } from "../state/changes.ts";
import type { Session } from "../state/session.ts";
import { h, type IconName, icon, patch, set, setText } from "../ui/dom.ts";
import { plural } from "../ui/format.ts";
import { Notes } from "./notes.ts";
import { Progress } from "./progress.ts";
import { Restart } from "./restart.ts";

const STATUS_WORDS: Record<Status, string> = {
  idle: "Ready",
  running: "Running",
  paused: "Paused",
  stopped: "Stopped",
  done: "Done",
  error: "Error",
};

interface Action {
  readonly name: CommandName;
  readonly label: string;
  readonly icon: IconName;
}

const RUN: Action = { name: "run", label: "Run", icon: "run" };
const PAUSE: Action = { name: "pause", label: "Pause", icon: "pause" };
const RESUME: Action = { name: "resume", label: "Resume", icon: "run" };
const STOP: Action = { name: "stop", label: "Stop", icon: "stop" };
const RESTART: Action = { name: "restart", label: "Restart", icon: "restart" };

/** The first is what most people want to do next. */
const ACTIONS: Record<Status, readonly Action[]> = {
  idle: [RUN],
  running: [PAUSE, STOP, RESTART],
  paused: [RESUME, STOP, RESTART],
  stopped: [RESTART],
  done: [RESTART],
  error: [RESTART],
};

/** Why there is nothing to run, and what to do about it. */
const SAVED_PAGE = [
  "Saved page: nothing computes here",
  "Run the cell of its notebook to compute again",
] as const;
const SAVED_RESULT = [
  "Saved result: no models to run",
  "CKAExplorer(model1, model2, loader) compares models",
] as const;

const TOLERANCE_HELP =
  "Stops the run when the largest standard error of the map is below this";

export class Controls {
  readonly element: HTMLElement;
  private readonly session: Session;
  private readonly names = h("h2", { class: "cka-names" });
  private readonly badge = h("span", { class: "cka-badge", role: "status" });
  private readonly saved = h("span", { class: "cka-field" });
  private readonly tolerance: HTMLInputElement;
  private readonly toleranceField: HTMLElement;
  private readonly buttons = h("div", {
    class: "cka-buttons",
    role: "group",
    "aria-label": "Run",
  });
  private readonly progress: Progress;
  private readonly message = h("div", { class: "cka-message" });
  private readonly notes: Notes;
  private readonly restart: Restart;

  constructor(session: Session, toggleLayers: HTMLElement) {
    this.session = session;
    this.restart = new Restart(session, () => this.drawButtons());
    this.notes = new Notes(session.comparison, session.frames);
    this.progress = new Progress(session);
    this.tolerance = this.toleranceInput();
    this.toleranceField = h(
      "label",
      { class: "cka-field", title: TOLERANCE_HELP },
      "Stop when \u00b1 below",
      this.tolerance,
    );
    const { saved, toleranceField, buttons, progress } = this;
    const orders = [saved, toleranceField, buttons, toggleLayers];
    this.element = h(
      "header",
      { class: "cka-head" },
      h(
        "div",
        { class: "cka-head-row" },
        this.names,
        this.badge,
        h("div", { class: "cka-orders" }, ...orders),
      ),
      progress.line,
      progress.bar,
      this.message,
      this.notes.element,
    );
    this.drawNames();
    for (const change of ["tolerance", "status", "message"] as const)
      this.update(change);
    this.notes.update();
  }

  update(change: Change): void {
    if (change === "status") this.drawStatus();
    if (change === "layers" || change === "frame") this.updateButtons();
    if (change === "message") this.drawMessage();
    if (change === "tolerance") this.drawTolerance();
    if (change === "frame") {
      this.progress.update();
      this.notes.update();
    }
  }

  private toleranceInput(): HTMLInputElement {
    return h("input", {
      class: "cka-input cka-narrow",
      type: "text",
      inputmode: "decimal",
      placeholder: "off",
      "aria-label": "Stop when the largest standard error is below",
      onchange: () => this.toleranceChanged(),
    });
  }

  private drawNames(): void {
    const name = (text: string) => h("span", { class: "cka-model", title: text }, text);
    const times = h("span", { class: "cka-times" }, "\u00d7");
    const [first, second] = this.session.comparison.names;
    this.names.replaceChildren(name(first), times, name(second));
  }

  private drawStatus(): void {
    const { run, connection } = this.session;
    const { isConnected } = connection;
    const [what, remedy] = connection.isSaved ? SAVED_PAGE : SAVED_RESULT;
    setText(this.saved, what);
    set(this.saved, { title: remedy });
    this.saved.hidden = run.canRun;
    this.toleranceField.hidden = this.buttons.hidden = !run.canRun;
    setText(this.badge, isConnected ? STATUS_WORDS[run.status] : "No kernel");
    set(this.badge, { "data-status": isConnected ? run.status : "gone" });
    this.restart.forget();
    this.drawButtons();
    this.progress.update();
  }

  /** Layers chosen after the run change what most people want to do next. */
  private updateButtons(): void {
    const [first] = this.actions();
    if (first?.label !== this.buttons.firstElementChild?.textContent) this.drawStatus();
  }

  private drawTolerance(): void {
    const { value } = this.session.tolerance;
    this.tolerance.value = value === null ? "" : String(value);
    set(this.tolerance, { "aria-invalid": false });
  }

  private drawMessage(): void {
    const { messages } = this.session;
    const { kind, text } = messages.current;
    this.message.hidden = text === "";
    set(this.message, {
      "data-kind": kind || "note",
      role: kind === "error" ? "alert" : "status",
    });
    const props = {
      class: "cka-button cka-quiet",
      type: "button",
      "aria-label": "Dismiss the message",
      onclick: () => messages.dismiss(),
    };
    const words = h("div", { class: "cka-message-text" }, text);
    patch(this.message, text ? [words, h("button", props, icon("close"))] : []);
  }

  private actions(): readonly Action[] {
    const { run, choice, frames } = this.session;
    const isOver =
      run.status === "done" || run.status === "stopped" || run.status === "error";
    const missing = isOver ? choice.missingFrom(frames.shown) : 0;
    if (missing === 0) return ACTIONS[run.status];
    const label = `Run ${plural(missing, "new layer")}`;
    return [{ ...RUN, label }, ...ACTIONS[run.status]];
  }

  private drawButtons(): void {
    const root = this.buttons.getRootNode() as Document | ShadowRoot;
    const hasFocus = () => this.buttons.contains(root.activeElement);
    const hadFocus = hasFocus();
    patch(
      this.buttons,
      this.actions().map((action, k) => this.button(action, k === 0)),
    );
    const [first] = this.buttons.querySelectorAll("button");
    if (hadFocus && !hasFocus()) first?.focus();
  }

  private button(action: Action, isPrimary: boolean): HTMLButtonElement {
    const isRestart = action === RESTART;
    const label = isRestart ? this.restart.label(action.label) : action.label;
    const props = {
      class: `cka-button${isPrimary ? " cka-primary" : ""}`,
      type: "button",
      "data-key": action.name,
      onclick: () => this.act(action.name),
    };
    return h("button", props, icon(action.icon), h("span", {}, label));
  }

  private act(name: CommandName): void {
    if (name === "restart") this.restart.click();
    else {
      this.restart.forget();
      this.session.run.command(name);
    }
  }

  private toleranceChanged(): void {
    const text = this.tolerance.value.trim().replace(",", ".");
    const value = text === "" || text === "off" ? null : Number(text);
    const isWrong = value !== null && !(value > 0);
    set(this.tolerance, { "aria-invalid": isWrong });
    if (isWrong)
      this.session.messages.error(`The tolerance must be above 0, got "${text}".`);
    else this.session.tolerance.set(value);
  }
}
