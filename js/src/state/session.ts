/**
 * What a page knows about one explorer, however many views it has.
 *
 * Lives from `initialize` to its clean-up. Each part has a class of its own; the session
 * creates them and routes the kernel's events to them.
 */

import {
  CHANGED,
  CONNECTION,
  type ColorRange,
  CUSTOM_MESSAGE,
  colorRangeOf,
  decode,
  type Focus,
  focusOf,
  type Model,
  messageOf,
  PROTOCOL,
  paletteOf,
  protocolOf,
  say,
  type Tone,
  toleranceOf,
  toneOf,
} from "../protocol.ts";
import { errorText } from "../ui/format.ts";
import { type Change, Changes, Messages, Shared } from "./changes.ts";
import { LayerChoice } from "./choice.ts";
import { Comparison } from "./comparison.ts";
import { Connection } from "./connection.ts";
import { Frames } from "./frames.ts";
import { Pins } from "./pins.ts";
import { Run } from "./run.ts";

export class Session {
  readonly changes = new Changes();
  readonly pins = new Pins(this.changes);
  readonly messages: Messages;
  readonly connection: Connection;
  readonly comparison: Comparison;
  readonly run: Run;
  readonly frames: Frames;
  readonly choice: LayerChoice;
  readonly focus: Shared<Focus>;
  readonly palette: Shared<string>;
  readonly colorRange: Shared<ColorRange>;
  /** The largest standard error at which a run stops by itself. */
  readonly tolerance: Shared<number | null>;
  private readonly model: Model;
  private readonly off: (() => void)[] = [];

  constructor(model: Model) {
    this.model = model;
    const { changes } = this;
    this.messages = new Messages(changes, messageOf(model));
    this.connection = new Connection(model, changes, this.messages);
    this.comparison = new Comparison(model);
    this.run = new Run(model, this.connection, this.comparison.meta);
    this.frames = new Frames(model, changes, this.messages, this.connection);
    this.choice = new LayerChoice(model, changes, this.connection);
    this.focus = this.shared(focusOf, say.focus, "focus");
    this.palette = this.shared(paletteOf, say.palette, "colors");
    this.colorRange = this.shared(colorRangeOf, say.colorRange, "colors");
    this.tolerance = this.shared(toleranceOf, say.tolerance, "tolerance");
    this.listen();
    this.checkProtocol();
  }

  /** Light or dark, if one was asked for; null follows the page around. */
  get tone(): Tone | null {
    return toneOf(this.model);
  }

  /** Adds a view; the kernel hears of the first one at once, to send at full rate. */
  subscribe(listener: (change: Change) => void): () => void {
    const unsubscribe = this.changes.subscribe(listener);
    if (this.changes.views === 1) this.connection.sayReady();
    return unsubscribe;
  }

  close(): void {
    for (const off of this.off) off();
    for (const shared of this.everyShared) shared.close();
    this.frames.close();
    this.connection.close();
    this.changes.close();
  }

  private get everyShared() {
    const { choice, focus, palette, colorRange, tolerance } = this;
    return [choice, focus, palette, colorRange, tolerance];
  }

  private shared<T>(
    read: (model: Model) => T,
    message: (value: T) => unknown,
    change: Change,
  ): Shared<T> {
    return new Shared({
      read: () => read(this.model),
      send: (value) => this.connection.send(message(value)),
      tell: () => this.changes.tell(change),
    });
  }

  private listen(): void {
    const { changes, connection, choice, frames } = this;
    const events: Record<string, () => void> = {
      [CHANGED.axes]: () => frames.axesChanged(),
      [CHANGED.snapshot]: () => frames.snapshotChanged(),
      [CHANGED.trees]: () => this.treesChanged(),
      [CHANGED.status]: () => this.statusChanged(),
      [CHANGED.message]: () => this.messageChanged(),
      [CHANGED.estimate]: () => changes.tell("status"),
      [CHANGED.queued]: () => changes.tell("status"),
      [CHANGED.layers1]: () => choice.kernelChanged(),
      [CHANGED.layers2]: () => choice.kernelChanged(),
      [CHANGED.focus]: () => this.focus.kernelChanged(),
      [CHANGED.tolerance]: () => this.tolerance.kernelChanged(),
      [CHANGED.metric]: () => changes.tell("colors"),
      [CHANGED.palette]: () => this.palette.kernelChanged(),
      [CHANGED.colorRange]: () => this.colorRange.kernelChanged(),
      [CHANGED.theme]: () => changes.tell("theme"),
    };
    for (const [event, handler] of Object.entries(events)) this.on(event, handler);
    for (const event of CONNECTION) this.on(event, () => connection.kernelChanged());
    this.on(CUSTOM_MESSAGE, (content: unknown, buffers?: ArrayBufferView[]) =>
      this.receive(content, buffers ?? []),
    );
  }

  private on(event: string, handler: (...args: never[]) => void): void {
    this.model.on(event, handler);
    this.off.push(() => this.model.off(event, handler));
  }

  private treesChanged(): void {
    this.comparison.treesChanged();
    this.changes.tell("trees");
  }

  private statusChanged(): void {
    this.connection.answered();
    this.changes.tell("status");
  }

  private messageChanged(): void {
    this.connection.answered();
    this.messages.show(messageOf(this.model));
  }

  private receive(content: unknown, buffers: readonly ArrayBufferView[]): void {
    try {
      const received = decode(content, buffers);
      if (received.kind === "frame") this.frames.take(received.frame);
      else if (received.kind === "history") this.frames.takeHistory(received.history);
      else if (received.kind === "bokehjs") this.connection.bokehArrived(received.gz);
      else if (received.kind === "refused")
        for (const shared of this.everyShared) shared.refused();
    } catch (error) {
      this.messages.error(
        `A message from the kernel could not be read. ${errorText(error)}`,
      );
    }
  }

  private checkProtocol(): void {
    const theirs = protocolOf(this.model);
    if (theirs === PROTOCOL) return;
    this.messages.error(
      `Expected protocol ${PROTOCOL} from the kernel, got ${theirs}. ` +
        "Restart the kernel and reload the page, so that both have the same version.",
    );
  }
}
