/** Which layers of both models are chosen, with undo. */

import {
  layersOf,
  type Model,
  type PerSide,
  perSide,
  SIDES,
  type Side,
  say,
} from "../protocol.ts";
import { type Changes, Shared } from "./changes.ts";
import type { Connection } from "./connection.ts";
import type { Shown } from "./frames.ts";

export const UNDO_STEPS = 20;

type Layers = PerSide<readonly string[]>;

export class LayerChoice {
  private readonly shared: Shared<Layers>;
  private readonly undoable: Layers[] = [];

  constructor(model: Model, changes: Changes, connection: Connection) {
    this.shared = new Shared<Layers>({
      read: () => perSide((side) => layersOf(model, side)),
      send: (layers, before) => connection.send(say.layers(changed(layers, before))),
      tell: () => changes.tell("layers"),
    });
  }

  get layers(): Layers {
    return this.shared.value;
  }

  get canUndo(): boolean {
    return this.undoable.length > 0;
  }

  choose(layers: Partial<Record<Side, readonly string[]>>): void {
    const next = perSide((side) => layers[side] ?? this.layers[side]);
    if (Object.keys(changed(next, this.layers)).length === 0) return;
    this.undoable.push(this.layers);
    if (this.undoable.length > UNDO_STEPS) this.undoable.shift();
    this.shared.set(next);
  }

  undo(): void {
    const before = this.undoable.pop();
    if (before) this.shared.set(before);
  }

  /** How many chosen layers the frame lacks; 0 before the first frame. */
  missingFrom(shown: Shown | null): number {
    if (!shown) return 0;
    const missing = SIDES.map((side) => {
      const known = new Set(shown.axes.layers[side]);
      return this.layers[side].filter((name) => !known.has(name)).length;
    });
    return missing.reduce((sum, count) => sum + count, 0);
  }

  kernelChanged(): void {
    this.shared.kernelChanged();
  }

  /** A choice that the kernel has refused is none to come back to, or from. */
  refused(): void {
    this.shared.refused();
    const last = this.undoable.at(-1);
    if (last && Object.keys(changed(last, this.layers)).length === 0)
      this.undoable.pop();
  }

  close(): void {
    this.shared.close();
  }
}

/** The sides that differ, with their new layers. */
function changed(
  layers: Layers,
  before: Layers,
): Partial<Record<Side, readonly string[]>> {
  const sides = SIDES.filter((side) => !areEqual(layers[side], before[side]));
  return Object.fromEntries(sides.map((side) => [side, layers[side]]));
}

function areEqual(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((name, k) => name === b[k]);
}
