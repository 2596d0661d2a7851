/** The head of a view: names, run and pause, the progress line, the message. */

import type { CommandName, Frame, Status } from "../protocol.ts";
import type { Session } from "../state/session.ts";
import { h, type IconName, icon, replaceKeeping, set, setText } from "../ui/dom.ts";
import { clock, count, plural, value } from "../ui/format.ts";
import { Notes } from "./notes.ts";

const WORDS: Record<Status, string> = {
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

/** The first one is what most people want to do next. */
const ACTIONS: Record<Status, readonly Action[]> = {
  idle: [RUN],
  running: [PAUSE, STOP, RESTART],
  paused: [RESUME, STOP, RESTART],
  stopped: [RESTART],
  done: [RESTART],
  error: [RESTART],
};

/** Why there is nothing to run, and what to do for it. */
const SAVED_PAGE = [
  "Saved page: nothing computes here",
  "Run the cell of its notebook to compute anew",
] as const;
const SAVED_RESULT = [
  "Saved result: no models to run",
  "CKAExplorer(model1, model2, loader) compares models",
] as const;

const LINE_HELP =
  "elapsed < remaining, mean of the map, mean of layers of equal number, " +
  "largest standard error";

const MUCH_WORK_SECONDS = 30;
const CONFIRM_MS = 5000;

export class Controls {
  readonly element: HTMLElement;
  private readonly session: Session;
  private readonly names = h("h2", { class: "cka-names" });
  private readonly badge = h("span", { class: "cka-badge", role: "status" });
  private readonly until: HTMLElement;
  private readonly saved = h("span", { class: "cka-field" });
  private readonly buttons = h("div", { class: "cka-buttons", role: "group" });
  private readonly line = h("p", { class: "cka-progress-line" });
  private readonly bar = h("div", { class: "cka-bar", role: "progressbar" });
  private readonly fill = h("div", { class: "cka-bar-fill" });
  private readonly message = h("div", { class: "cka-message" });
  readonly notes: Notes;
  private readonly tolerance: HTMLInputElement;
  private confirming: ReturnType<typeof setTimeout> | undefined;

  constructor(session: Session, toggleLayers: HTMLElement) {
    this.session = session;
    this.notes = new Notes(session);
    set(this.buttons, { "aria-label": "Run" });
    set(this.bar, { "aria-label": "Batches", "aria-valuemin": 0 });
    this.bar.append(this.fill);
    this.tolerance = h("input", {
      class: "cka-input cka-narrow",
      type: "text",
      inputmode: "decimal",
      placeholder: "off",
      "aria-label": "Stop when the largest standard error is below",
      onchange: () => this.toleranceChanged(),
    });
    const title =
      "Stops the run when the largest standard error of the map is below this";
    this.until = h(
      "label",
      { class: "cka-field", title },
      "Stop when \u00b1 below",
      this.tolerance,
    );
    this.element = h(
      "header",
      { class: "cka-head" },
      h(
        "div",
        { class: "cka-head-row" },
        this.names,
        this.badge,
        h(
          "div",
          { class: "cka-orders" },
          this.saved,
          this.until,
          this.buttons,
          toggleLayers,
        ),
      ),
      this.line,
      this.bar,
      this.message,
      this.notes.element,
    );
    this.update();
  }

  update(): void {
    this.updateTolerance();
    this.updateNames();
    this.updateStatus();
    this.updateProgress();
    this.updateMessage();
    this.notes.update();
  }

  updateNames(): void {
    const [first, second] = this.session.meta.names;
    const name = (text: string) => h("span", { class: "cka-model", title: text }, text);
    const times = h("span", { class: "cka-times" }, "\u00d7");
    this.names.replaceChildren(name(first), times, name(second));
  }

  updateStatus(): void {
    const { status, isConnected, isSaved, canRun } = this.session;
    const [what, remedy] = isSaved ? SAVED_PAGE : SAVED_RESULT;
    setText(this.saved, what);
    set(this.saved, { title: remedy });
    this.saved.hidden = canRun;
    this.until.hidden = this.buttons.hidden = !canRun;
    setText(this.badge, isConnected ? WORDS[status] : "No kernel");
    set(this.badge, { "data-status": isConnected ? status : "gone" });
    clearTimeout(this.confirming);
    this.drawButtons(this.actions());
    this.updateProgress();
  }

  /** Layers that were chosen after the run change what most people want to do next. */
  updateLayers(): void {
    const [first] = this.actions();
    if (first?.label !== this.buttons.firstElementChild?.textContent)
      this.updateStatus();
  }

  updateProgress(): void {
    const frame = this.session.shown?.frame ?? null;
    const isSelf = this.session.meta.self;
    setText(this.line, frame ? progressWords(frame, isSelf) : this.waitingWords());
    set(this.line, { title: frame && LINE_HELP });
    const share = frame?.total ? frame.batch / frame.total : null;
    this.fill.style.width = share === null ? "0" : `${100 * Math.min(1, share)}%`;
    set(this.bar, {
      hidden: frame !== null && share === null ? true : undefined,
      "aria-valuemax": frame?.total,
      "aria-valuenow": share === null ? undefined : frame?.batch,
    });
  }

  updateTolerance(): void {
    const { tolerance } = this.session;
    this.tolerance.value = tolerance === null ? "" : String(tolerance);
    set(this.tolerance, { "aria-invalid": false });
  }

  updateMessage(): void {
    const { kind, text } = this.session.message;
    this.message.hidden = text === "";
    set(this.message, {
      "data-kind": kind || "note",
      role: kind === "error" ? "alert" : "status",
    });
    const dismiss = h(
      "button",
      {
        class: "cka-button cka-quiet",
        type: "button",
        "data-key": "dismiss",
        "aria-label": "Dismiss the message",
        onclick: () => this.session.dismiss(),
      },
      icon("close"),
    );
    const words = h("div", { class: "cka-message-text" }, text);
    replaceKeeping(this.message, text ? [words, dismiss] : []);
  }

  private waitingWords(): string {
    const { status, meta, layers, estimate } = this.session;
    const size = `${layers[0].length} \u00d7 ${layers[1].length} layers`;
    const parts = [size, meta.loader && `over ${meta.loader}`]
      .filter(Boolean)
      .join(" ");
    if (status !== "running") return [parts, estimate].filter(Boolean).join(" \u00b7 ");
    return `${parts} \u00b7 ${estimate ? `${estimate}: starting` : "first batch\u2026"}`;
  }

  private actions(): readonly Action[] {
    const { status, missing } = this.session;
    const isOver = status === "done" || status === "stopped" || status === "error";
    if (!isOver || missing === 0) return ACTIONS[status];
    const label = `Run ${plural(missing, "new layer")}`;
    return [{ ...RUN, label }, ...ACTIONS[status]];
  }

  private drawButtons(actions: readonly Action[]): void {
    const root = this.buttons.getRootNode() as Document | ShadowRoot;
    const hadFocus = this.buttons.contains(root.activeElement);
    const buttons = actions.map((action, k) => {
      const text = h("span", {}, action.label);
      const button = h(
        "button",
        {
          class: `cka-button${k === 0 ? " cka-primary" : ""}`,
          type: "button",
          onclick: () => this.act(action, text),
        },
        icon(action.icon),
        text,
      );
      return button;
    });
    this.buttons.replaceChildren(...buttons);
    if (hadFocus) buttons[0]?.focus();
  }

  /** Asks once before much work is thrown away. */
  private act(action: Action, text: HTMLElement): void {
    const seconds = this.session.shown?.frame.seconds ?? 0;
    const loses = this.session.status === "running" || this.session.status === "paused";
    const asked = text.dataset.asked === "yes";
    if (action.name === "restart" && loses && seconds > MUCH_WORK_SECONDS && !asked) {
      text.dataset.asked = "yes";
      setText(text, `Discard ${clock(seconds)}?`);
      this.confirming = setTimeout(() => this.updateStatus(), CONFIRM_MS);
      return;
    }
    if (asked) this.updateStatus();
    this.session.command(action.name);
  }

  private toleranceChanged(): void {
    const text = this.tolerance.value.trim().replace(",", ".");
    const value = text === "" || text === "off" ? null : Number(text);
    const wrong = value !== null && !(value > 0);
    set(this.tolerance, { "aria-invalid": wrong });
    if (wrong) this.session.fail(`The tolerance must be above 0, got "${text}".`);
    else this.session.setTolerance(value);
  }
}

/** "37/157 batches · 4 736 examples · 1 210 examples/s · 00:31 < 01:38 · mean 0.614 · …" */
export function progressWords(frame: Frame, isSelf = false): string {
  const { batch, total, examples, skipped, seconds, rate, gpu, maxStderr } = frame;
  const of = total === null ? "" : `${count(batch)}/`;
  const batches = of + plural(total ?? batch, "batch", "batches");
  const parts = [batches, plural(examples, "example")];
  if (skipped > 0) parts.push(`${count(skipped)} skipped`);
  if (rate > 0 && !frame.final) parts.push(`${count(rate)} examples/s`);
  const left = total !== null && batch > 0 ? ((total - batch) * seconds) / batch : null;
  const eta = left !== null && left > 0 && !frame.final ? ` < ${clock(left)}` : "";
  parts.push(clock(seconds) + eta);
  if (gpu) parts.push(gpuWords(gpu));
  parts.push(...meanWords(frame, isSelf));
  if (maxStderr !== null) parts.push(`largest \u00b1\u202f${maxStderr.toFixed(3)}`);
  return parts.join(" \u00b7 ");
}

/** "mean 0.614" of the map and, where layers face each other, of its diagonal. */
function meanWords({ matrix, rows, cols }: Frame, isSelf: boolean): string[] {
  const means: [string, number][] = [["mean", mean(matrix, 1)]];
  if (rows === cols && !isSelf) means.push(["diagonal", mean(matrix, cols + 1)]);
  return means.flatMap(([name, of]) =>
    Number.isNaN(of) ? [] : [`${name} ${value(of)}`],
  );
}

/** Mean of the defined ones among values that are a step apart; NaN of none. */
function mean(values: Float32Array, step: number): number {
  let [sum, known] = [0, 0];
  for (let k = 0; k < values.length; k += step) {
    const number = values[k] as number;
    if (Number.isNaN(number)) continue;
    sum += number;
    known += 1;
  }
  return sum / known;
}

/** "GPU 3.1/80 GB", in units of 2^30 bytes, as cards are named. */
function gpuWords([used, total]: readonly [number, number]): string {
  const gigabytes = (bytes: number) => (bytes / 2 ** 30).toFixed(1).replace(/\.0$/, "");
  return `GPU ${gigabytes(used)}/${Math.round(total / 2 ** 30)} GB`;
}
