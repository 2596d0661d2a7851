/** Cells whose trends stay beside those of the focus. */

import type { PerSide } from "../protocol.ts";
import type { Changes } from "./changes.ts";

export const MAX_PINS = 8;

export class Pins {
  /** Pairs of layers, in the order in which they were pinned. */
  pairs: readonly PerSide<string>[] = [];
  private readonly changes: Changes;

  constructor(changes: Changes) {
    this.changes = changes;
  }

  /** Pins a pair, or unpins it; a ninth pin replaces the first. */
  toggle([row, column]: PerSide<string>): void {
    const others = this.pairs.filter((pin) => pin[0] !== row || pin[1] !== column);
    const isNew = others.length === this.pairs.length;
    this.pairs = isNew ? [...others, [row, column] as const].slice(-MAX_PINS) : others;
    this.changes.tell("pins");
  }
}
