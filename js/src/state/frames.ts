/** Frames as they arrive, and the one that is shown. */

import {
  type Axes,
  axesOf,
  type Frame,
  type HistoryPart,
  type Model,
  snapshotOf,
} from "../protocol.ts";
import { errorText } from "../ui/format.ts";
import type { Changes, Messages } from "./changes.ts";
import type { Connection } from "./connection.ts";
import { CellHistory } from "./history.ts";

/** A frame with the names of its rows and columns. */
export interface Shown {
  readonly frame: Frame;
  readonly axes: Axes;
}

/** Hidden tabs have no animation frames; the newest frame is applied all the same. */
export const PAINT_WITHIN_MS = 250;

export class Frames {
  shown: Shown | null = null;
  readonly history = new CellHistory();
  private readonly model: Model;
  private readonly changes: Changes;
  private readonly messages: Messages;
  private readonly connection: Connection;
  private readonly axesByEpoch = new Map<number, Axes>();
  /** Waits for the next paint. */
  private pending: Frame | null = null;
  /** Waits for its axes. */
  private early: Frame | null = null;
  /** Waits for the first frame of its epoch. */
  private earlyHistory: HistoryPart | null = null;
  private cancelPaint: (() => void) | null = null;

  constructor(
    model: Model,
    changes: Changes,
    messages: Messages,
    connection: Connection,
  ) {
    this.model = model;
    this.changes = changes;
    this.messages = messages;
    this.connection = connection;
    this.readAxes();
    this.readSnapshot();
  }

  close(): void {
    this.cancelPaint?.();
  }

  /** The newest frame waits for the next paint; an older one is dropped. */
  take(frame: Frame): void {
    this.connection.answered();
    if (this.newest && !isNewer(frame, this.newest)) {
      this.connection.acknowledge(frame);
      return;
    }
    this.pending = frame;
    this.cancelPaint ??= beforePaint(() => this.apply());
  }

  /** The history of the next map waits for its first frame: its cells differ. */
  takeHistory(part: HistoryPart): void {
    if (part.epoch > (this.shown?.frame.epoch ?? part.epoch)) {
      this.earlyHistory = part;
      return;
    }
    this.history.merge(part);
    this.changes.tell("focus");
  }

  axesChanged(): void {
    this.readAxes();
    const { early, shown } = this;
    this.early = null;
    if (early) this.show(early);
    else if (shown) {
      const axes = this.axesByEpoch.get(shown.frame.epoch);
      if (axes) this.shown = { frame: shown.frame, axes };
    }
    this.changes.tell("frame");
  }

  snapshotChanged(): void {
    if (this.readSnapshot()) this.changes.tell("frame");
  }

  private get newest(): Frame | null {
    return this.pending ?? this.shown?.frame ?? null;
  }

  private apply(): void {
    this.cancelPaint = null;
    const frame = this.pending;
    this.pending = null;
    if (!frame) return;
    if (this.show(frame)) this.changes.tell("frame");
    this.connection.acknowledge(frame);
  }

  /** Pairs a frame with its axes, or keeps it until they arrive. */
  private show(frame: Frame): boolean {
    const axes = this.axesByEpoch.get(frame.epoch);
    if (!axes) {
      this.early = frame;
      return false;
    }
    const [rows, columns] = axes.layers;
    if (rows.length !== frame.rows || columns.length !== frame.cols) {
      this.messages.error(
        `Expected a frame of ${rows.length} x ${columns.length} layers, ` +
          `got ${frame.rows} x ${frame.cols}. Run again.`,
      );
      return false;
    }
    this.shown = { frame, axes };
    this.remember(frame);
    return true;
  }

  private remember(frame: Frame): void {
    const { earlyHistory } = this;
    this.earlyHistory = null;
    this.history.add(frame);
    if (earlyHistory) this.history.merge(earlyHistory);
  }

  private readAxes(): void {
    const axes = axesOf(this.model);
    if (!axes) return;
    this.axesByEpoch.set(axes.epoch, axes);
    for (const epoch of this.axesByEpoch.keys()) {
      if (epoch < axes.epoch - 1) this.axesByEpoch.delete(epoch);
    }
  }

  private readSnapshot(): boolean {
    try {
      const snapshot = snapshotOf(this.model);
      if (!snapshot) return false;
      const { frame, history } = snapshot;
      if (this.newest && isNewer(this.newest, frame)) return false;
      this.pending = null;
      const isShown = this.show(frame);
      this.history.merge(history);
      return isShown;
    } catch (error) {
      this.messages.error(`The saved result could not be read. ${errorText(error)}`);
      return false;
    }
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
