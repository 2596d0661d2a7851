/**
 * What a page knows about one explorer, whatever the number of its views.
 *
 * Lives from `initialize` to its clean-up. Views subscribe, draw synchronously when told
 * that something has changed, and the frame is acknowledged after that.
 */

import {
  type Axes,
  axesOf,
  CHANGED,
  CONNECTION,
  type ColorRange,
  type CommandName,
  CUSTOM_MESSAGE,
  callOf,
  colorRangeOf,
  decode,
  estimateOf,
  type Focus,
  type Frame,
  focusOf,
  type HistoryPart,
  isLive,
  isSaved,
  layersOf,
  type Message,
  type Meta,
  type Model,
  messageOf,
  metaOf,
  metricOf,
  type PerSide,
  PROTOCOL,
  paletteOf,
  perSide,
  protocolOf,
  SIDES,
  type Side,
  type Status,
  say,
  snapshotOf,
  statusOf,
  type Tone,
  toleranceOf,
  toneOf,
  treesOf,
} from "../protocol.ts";
import { History } from "./history.ts";
import { Tree } from "./tree.ts";

export type Change =
  | "frame"
  | "trees"
  | "layers"
  | "focus"
  | "pins"
  | "status"
  | "message"
  | "tolerance"
  | "colors"
  | "theme";

/** A frame with the names of its rows and columns. */
export interface Shown {
  readonly frame: Frame;
  readonly axes: Axes;
}

/** Hidden tabs have no animation frames; the newest frame is applied all the same. */
export const PAINT_WITHIN_MS = 250;
export const ANSWER_WITHIN_MS = 4000;
/** For that long the page's own choice wins over what the kernel echoes. */
export const ECHO_MS = 1500;
/** Time for a first view, so that usually one message says both. */
const READY_AFTER_MS = 300;
/** Models learn of a lost kernel one after the other. */
const SETTLED_MS = 50;
export const UNDO_STEPS = 20;
export const MAX_PINS = 8;

const NO_ANSWER =
  "No answer from the kernel. It may be busy or gone: run the cell again to compute. " +
  "What is shown stays, to be pointed at and clicked.";
const NO_KERNEL =
  "No answer from the kernel: it was restarted or shut down. Run the cell again to " +
  "compute. What is shown stays, to be pointed at and clicked.";

type Layers = PerSide<readonly string[]>;

export class Session {
  readonly page = pageId();
  readonly history = new History();
  shown: Shown | null = null;
  layers: Layers;
  focus: Focus;
  pins: (readonly [string, string])[] = [];
  palette: string;
  colorRange: ColorRange;
  status: Status;
  isConnected = true;
  isSaved = false;
  message: Message;
  trees: PerSide<Tree>;
  tolerance: number | null;
  private readonly model: Model;
  private readonly listeners = new Set<(change: Change) => void>();
  private readonly axesByEpoch = new Map<number, Axes>();
  private readonly touched = new Map<string, number>();
  private readonly bokehWaiters = new Set<(gz: Uint8Array<ArrayBuffer>) => void>();
  private readonly undoable: Layers[] = [];
  private readonly off: (() => void)[] = [];
  private pending: Frame | null = null;
  private early: Frame | null = null;
  private earlyHistory: HistoryPart | null = null;
  private cancelPaint: (() => void) | null = null;
  private answerTimer: ReturnType<typeof setTimeout> | undefined;
  private readyTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(model: Model) {
    this.model = model;
    this.layers = perSide((side) => layersOf(model, side));
    this.focus = focusOf(model);
    this.palette = paletteOf(model);
    this.colorRange = colorRangeOf(model);
    this.status = statusOf(model);
    this.message = messageOf(model);
    this.tolerance = toleranceOf(model);
    this.trees = this.readTrees();
    this.rememberAxes();
    this.takeSnapshot();
    this.listen();
    this.checkProtocol();
    void this.missKernel();
    this.readyTimer = setTimeout(() => this.sayReady(), READY_AFTER_MS);
  }

  get metric(): string {
    return metricOf(this.model);
  }

  get tone(): Tone | null {
    return toneOf(this.model);
  }

  get code(): readonly string[] {
    return callOf(this.model);
  }

  get estimate(): string {
    return estimateOf(this.model);
  }

  get meta(): Meta {
    return metaOf(this.model);
  }

  /** Whether a run can be ordered: there are models, and maybe a kernel that has them. */
  get canRun(): boolean {
    return !this.isSaved && this.meta.computes;
  }

  get views(): number {
    return this.listeners.size;
  }

  /** Chosen layers that the frame shown does not have; none before the first frame. */
  get missing(): number {
    if (!this.shown) return 0;
    const { layers } = this.shown.axes;
    return SIDES.reduce<number>((sum, side) => {
      const have = new Set(layers[side]);
      return sum + this.layers[side].filter((name) => !have.has(name)).length;
    }, 0);
  }

  get canUndo(): boolean {
    return this.undoable.length > 0;
  }

  close(): void {
    for (const off of this.off) off();
    clearTimeout(this.answerTimer);
    clearTimeout(this.readyTimer);
    this.cancelPaint?.();
    this.listeners.clear();
  }

  /** Adds a view; the kernel hears of the first one at once, to send at full rate. */
  subscribe(listener: (change: Change) => void): () => void {
    this.listeners.add(listener);
    if (this.listeners.size === 1) this.sayReady();
    return () => this.listeners.delete(listener);
  }

  command(name: CommandName): void {
    this.send(say.command(name));
    clearTimeout(this.answerTimer);
    if (this.isConnected) {
      this.answerTimer = setTimeout(() => this.noAnswer(), ANSWER_WITHIN_MS);
    } else this.noAnswer();
  }

  choose(layers: Partial<Record<Side, readonly string[]>>): void {
    const next = perSide((side) => layers[side] ?? this.layers[side]);
    if (same(next[0], this.layers[0]) && same(next[1], this.layers[1])) return;
    this.undoable.push(this.layers);
    if (this.undoable.length > UNDO_STEPS) this.undoable.shift();
    this.setLayers(next);
  }

  undo(): void {
    const before = this.undoable.pop();
    if (before) this.setLayers(before);
  }

  look(focus: Focus): void {
    this.touch("focus");
    this.focus = focus;
    this.send(say.focus(focus));
    this.tell("focus");
  }

  /** Keeps a pair's trends beside those of the focus, or lets them go again. */
  pin(pair: readonly [string, string]): void {
    const others = this.pins.filter((pin) => !same(pin, pair));
    const added = others.length === this.pins.length;
    this.pins = added ? [...others, pair].slice(-MAX_PINS) : others;
    this.tell("pins");
  }

  unpinAll(): void {
    this.pins = [];
    this.tell("pins");
  }

  setPalette(palette: string): void {
    this.touch("palette");
    this.palette = palette;
    this.send(say.palette(palette));
    this.tell("colors");
  }

  setColorRange(range: ColorRange): void {
    this.touch("colorRange");
    this.colorRange = range;
    this.send(say.colorRange(range));
    this.tell("colors");
  }

  setTolerance(tolerance: number | null): void {
    this.touch("tolerance");
    this.tolerance = tolerance;
    this.send(say.tolerance(tolerance));
  }

  dismiss(): void {
    this.message = { kind: "", text: "" };
    this.tell("message");
  }

  /** A failure of the page itself, shown where those of the kernel are. */
  fail(text: string): void {
    this.message = { kind: "error", text };
    this.tell("message");
  }

  /** What else there is to say of a click. */
  note(text: string): void {
    this.message = { kind: "note", text };
    this.tell("message");
  }

  /** Asks the kernel for BokehJS, the last resort when the shared model has none. */
  requestBokeh(version: string, timeout: number): Promise<Uint8Array<ArrayBuffer>> {
    return new Promise((resolve, reject) => {
      const waiter = (gz: Uint8Array<ArrayBuffer>) => {
        clearTimeout(timer);
        resolve(gz);
      };
      const timer = setTimeout(() => {
        this.bokehWaiters.delete(waiter);
        reject(new Error(`The kernel did not send BokehJS ${version}.`));
      }, timeout);
      this.bokehWaiters.add(waiter);
      this.send(say.needBokeh(version));
    });
  }

  private setLayers(next: Layers): void {
    const changed = {
      ...(!same(next[0], this.layers[0]) && { 0: next[0] }),
      ...(!same(next[1], this.layers[1]) && { 1: next[1] }),
    };
    this.touch("layers");
    this.layers = next;
    this.send(say.layers(changed));
    this.tell("layers");
  }

  private listen(): void {
    this.on(CHANGED.axes, () => this.axesChanged());
    this.on(CHANGED.snapshot, () => this.takeSnapshot() && this.tell("frame"));
    this.on(CHANGED.trees, () => {
      this.trees = this.readTrees();
      this.tell("trees");
    });
    this.on(CHANGED.status, () => {
      this.answered();
      this.status = statusOf(this.model);
      this.tell("status");
    });
    this.on(CHANGED.message, () => {
      this.answered();
      this.message = messageOf(this.model);
      this.tell("message");
    });
    this.on(CHANGED.estimate, () => this.tell("status"));
    this.on(CHANGED.layers1, () => this.echo("layers", () => this.readLayers()));
    this.on(CHANGED.layers2, () => this.echo("layers", () => this.readLayers()));
    this.on(CHANGED.focus, () => this.echo("focus", () => this.readFocus()));
    this.on(CHANGED.tolerance, () =>
      this.echo("tolerance", () => {
        this.tolerance = toleranceOf(this.model);
        this.tell("tolerance");
      }),
    );
    this.on(CHANGED.metric, () => this.tell("colors"));
    this.on(CHANGED.palette, () => this.echo("palette", () => this.readColors()));
    this.on(CHANGED.colorRange, () => this.echo("colorRange", () => this.readColors()));
    this.on(CHANGED.theme, () => this.tell("theme"));
    for (const event of CONNECTION) this.on(event, () => this.connectionChanged());
    this.on(CUSTOM_MESSAGE, (content: unknown, buffers?: ArrayBufferView[]) =>
      this.receive(content, buffers ?? []),
    );
  }

  private on(event: string, handler: (...args: never[]) => void): void {
    this.model.on(event, handler);
    this.off.push(() => this.model.off(event, handler));
  }

  private receive(content: unknown, buffers: readonly ArrayBufferView[]): void {
    try {
      const received = decode(content, buffers);
      if (received.kind === "frame") this.take(received.frame);
      else if (received.kind === "history") this.takeHistory(received.history);
      else if (received.kind === "bokehjs") {
        for (const waiter of this.bokehWaiters) waiter(received.gz);
        this.bokehWaiters.clear();
      }
    } catch (error) {
      this.fail(`A message of the kernel could not be read. ${wordsOf(error)}`);
    }
  }

  /** The newest frame waits for the next painting; one that is older is dropped. */
  private take(frame: Frame): void {
    this.answered();
    const newest = this.pending ?? this.shown?.frame ?? null;
    if (newest && !isNewer(frame, newest)) {
      this.send(say.ack(this.page, frame, this.views));
      return;
    }
    this.pending = frame;
    this.cancelPaint ??= beforePaint(() => this.apply());
  }

  private apply(): void {
    this.cancelPaint = null;
    const frame = this.pending;
    this.pending = null;
    if (!frame) return;
    if (this.show(frame)) this.tell("frame");
    this.send(say.ack(this.page, frame, this.views));
  }

  /** Pairs a frame with its axes; one that comes before its axes waits for them. */
  private show(frame: Frame): boolean {
    const axes = this.axesByEpoch.get(frame.epoch);
    if (!axes) {
      this.early = frame;
      return false;
    }
    if (axes.layers[0].length !== frame.rows || axes.layers[1].length !== frame.cols) {
      this.fail(
        `Expected a frame of ${axes.layers[0].length} x ${axes.layers[1].length} layers, ` +
          `got ${frame.rows} x ${frame.cols}. Run again.`,
      );
      return false;
    }
    this.shown = { frame, axes };
    this.history.add(frame);
    const { earlyHistory } = this;
    this.earlyHistory = null;
    if (earlyHistory) this.history.merge(earlyHistory);
    return true;
  }

  private axesChanged(): void {
    this.rememberAxes();
    const { early } = this;
    this.early = null;
    if (early) this.show(early);
    else if (this.shown) {
      const axes = this.axesByEpoch.get(this.shown.frame.epoch);
      if (axes) this.shown = { frame: this.shown.frame, axes };
    }
    this.tell("frame");
  }

  private rememberAxes(): void {
    const axes = axesOf(this.model);
    if (!axes) return;
    this.axesByEpoch.set(axes.epoch, axes);
    for (const epoch of this.axesByEpoch.keys()) {
      if (epoch < axes.epoch - 1) this.axesByEpoch.delete(epoch);
    }
  }

  private takeSnapshot(): boolean {
    try {
      const snapshot = snapshotOf(this.model);
      if (!snapshot) return false;
      const { frame, history } = snapshot;
      const newest = this.pending ?? this.shown?.frame ?? null;
      if (newest && isNewer(newest, frame)) return false;
      this.pending = null;
      const taken = this.show(frame);
      this.history.merge(history);
      return taken;
    } catch (error) {
      this.fail(`The saved result could not be read. ${wordsOf(error)}`);
      return false;
    }
  }

  /** What is of the next map waits for its first frame: its cells are others. */
  private takeHistory(part: HistoryPart): void {
    if (part.epoch > (this.shown?.frame.epoch ?? part.epoch)) {
      this.earlyHistory = part;
      return;
    }
    this.history.merge(part);
    this.tell("focus");
  }

  private readTrees(): PerSide<Tree> {
    const [first, second] = treesOf(this.model);
    return [new Tree(first), new Tree(second)];
  }

  private readLayers(): void {
    this.layers = perSide((side) => layersOf(this.model, side));
    this.tell("layers");
  }

  private readFocus(): void {
    this.focus = focusOf(this.model);
    this.tell("focus");
  }

  private readColors(): void {
    this.palette = paletteOf(this.model);
    this.colorRange = colorRangeOf(this.model);
    this.tell("colors");
  }

  private touch(what: string): void {
    this.touched.set(what, Date.now());
  }

  /** Takes the kernel's word, but not its echo of a click that others have followed. */
  private echo(what: string, read: () => void): void {
    const wait = ECHO_MS - (Date.now() - (this.touched.get(what) ?? 0));
    if (wait <= 0) read();
    else {
      const timer = setTimeout(() => {
        if (Date.now() - (this.touched.get(what) ?? 0) >= ECHO_MS) read();
      }, wait + 1);
      this.off.push(() => clearTimeout(timer));
    }
  }

  private sayReady(): void {
    clearTimeout(this.readyTimer);
    this.send(say.ready(this.page, this.views));
  }

  private send(content: unknown): void {
    try {
      this.model.send(content);
    } catch (error) {
      // A kernel that is known to be gone is no news with every click.
      if (this.isConnected)
        this.fail(`The kernel cannot be reached. ${wordsOf(error)}`);
    }
  }

  private answered(): void {
    clearTimeout(this.answerTimer);
    if (this.message.text !== NO_ANSWER && this.message.text !== NO_KERNEL) return;
    this.message = messageOf(this.model);
    this.tell("message");
  }

  private noAnswer(): void {
    this.fail(this.isConnected ? NO_ANSWER : NO_KERNEL);
  }

  /** A saved page has no kernel from the start, and nothing to complain about. */
  private async missKernel(): Promise<void> {
    this.isSaved = await isSaved(this.model);
    if (!this.isSaved) return;
    if (this.status === "running" || this.status === "paused") this.status = "stopped";
    this.tell("status");
  }

  private connectionChanged(): void {
    const timer = setTimeout(async () => {
      const live = await isLive(this.model);
      if (live === (this.isConnected && !this.isSaved)) return;
      this.isConnected = live;
      this.isSaved = false;
      if (live) this.answered();
      else this.noAnswer();
      this.tell("status");
    }, SETTLED_MS);
    this.off.push(() => clearTimeout(timer));
  }

  private checkProtocol(): void {
    const theirs = protocolOf(this.model);
    if (theirs !== PROTOCOL) {
      this.fail(
        `Expected protocol ${PROTOCOL} from the kernel, got ${theirs}. ` +
          "Restart the kernel and reload the page, so that both are of one version.",
      );
    }
  }

  private tell(change: Change): void {
    for (const listener of this.listeners) listener(change);
  }
}

function isNewer(frame: Frame, than: Frame): boolean {
  return frame.epoch !== than.epoch ? frame.epoch > than.epoch : frame.seq > than.seq;
}

function beforePaint(action: () => void): () => void {
  let done = false;
  const once = () => {
    if (done) return;
    cancel();
    action();
  };
  const cancel = () => {
    done = true;
    cancelAnimationFrame(frame);
    clearTimeout(timer);
  };
  const frame = requestAnimationFrame(once);
  const timer = setTimeout(once, PAINT_WITHIN_MS);
  return cancel;
}

function same(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((name, k) => name === b[k]);
}

function pageId(): string {
  return Math.random().toString(36).slice(2, 10);
}

export function wordsOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
