/** What is compared: two models, their layer trees, and by which measure. */

import {
  callOf,
  type Meta,
  type Model,
  metaOf,
  metricOf,
  type PerSide,
  perSide,
  type Side,
  treesOf,
} from "../protocol.ts";
import { layerName } from "../ui/format.ts";
import { Tree } from "./tree.ts";

export class Comparison {
  readonly meta: Meta;
  trees: PerSide<Tree>;
  private readonly model: Model;

  constructor(model: Model) {
    this.model = model;
    this.meta = metaOf(model);
    this.trees = this.readTrees();
  }

  get names(): PerSide<string> {
    return this.meta.names;
  }

  /** Whether a model is compared with itself. */
  get isSelf(): boolean {
    return this.meta.self;
  }

  get metric(): string {
    return metricOf(this.model);
  }

  /** Whether values are those of one result minus those of another. */
  get isDifference(): boolean {
    return this.meta.isDifference;
  }

  /** The Python call before, between and after its two lists of layers. */
  get code(): readonly string[] {
    return callOf(this.model);
  }

  /** A layer's name as shown; the root goes by its class. */
  layerName(side: Side, name: string): string {
    const { columns, rowOf } = this.trees[side];
    return layerName(name, columns.type[rowOf.get(name) ?? -1] ?? "");
  }

  treesChanged(): void {
    this.trees = this.readTrees();
  }

  private readTrees(): PerSide<Tree> {
    const columns = treesOf(this.model);
    return perSide((side) => new Tree(columns[side]));
  }
}
