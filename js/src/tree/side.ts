/** Both layer trees: beside the map, or above it, where they fold to one line. */

import { type PerSide, perSide, SIDES, type Side } from "../protocol.ts";
import type { Change } from "../state/changes.ts";
import type { Session } from "../state/session.ts";
import { h, icon, set, setText, uniqueId } from "../ui/dom.ts";
import { plural, some } from "../ui/format.ts";
import { LayerTree } from "./layer_tree.ts";

/** Below this width in pixels the trees stand above the map. */
const NARROW = 720;
/** Below this width they would push it out of sight, so they fold until opened. */
const TINY = 560;

export class TreeSide {
  readonly element: HTMLElement;
  /** Folds and unfolds the trees from the head, when they stand beside the map. */
  readonly toggle: HTMLButtonElement;
  private readonly root: HTMLElement;
  private readonly session: Session;
  private readonly trees: PerSide<LayerTree>;
  private readonly both: HTMLElement;
  private readonly bar: HTMLButtonElement;
  private readonly counts = h("span", { class: "cka-tree-counts" });
  private width = Number.POSITIVE_INFINITY;
  /** What the user has asked for; until then width and run decide. */
  private wanted: boolean | null = null;
  private isLive = false;
  private isFolded = false;
  /** The note about the last mirroring. */
  private mirrorNote = "";

  constructor(session: Session, root: HTMLElement) {
    this.session = session;
    this.root = root;
    this.trees = perSide((side) => this.treeOf(side));
    const id = uniqueId("trees");
    const elements = this.trees.map((tree) => tree.element);
    this.both = h("div", { class: "cka-trees", id }, ...elements);
    this.bar = this.barOf(id);
    this.toggle = this.toggleOf();
    this.element = h("div", { class: "cka-side" }, this.bar, this.both);
    this.draw();
    this.statusChanged();
  }

  update(change: Change): void {
    if (change === "trees") {
      for (const side of SIDES)
        this.trees[side].setTree(this.session.comparison.trees[side]);
    }
    if (change === "trees" || change === "layers") this.draw();
    if (change === "status") this.statusChanged();
  }

  resize(width: number): void {
    this.width = width;
    this.root.classList.toggle("cka-slim", width < NARROW);
    this.fold();
  }

  private draw(): void {
    const { layers, canUndo } = this.session.choice;
    for (const side of SIDES) this.trees[side].setChosen(layers[side], canUndo);
    setText(this.counts, this.trees.map((tree) => tree.counts).join(" \u00d7 "));
  }

  /** Above the map the trees make room for a run, unless they have the focus. */
  private statusChanged(): void {
    if (this.session.run.status === "running" && !this.hasFocus()) this.isLive = true;
    this.fold();
  }

  private fold(): void {
    const suggested = this.width < TINY || (this.isLive && this.width < NARROW);
    const folded = this.wanted ?? suggested;
    if (folded && !this.isFolded && this.hasFocus()) return;
    this.isFolded = folded;
    this.root.classList.toggle("cka-folded", folded);
    set(this.toggle, { "aria-pressed": String(!folded) });
    set(this.bar, { "aria-expanded": String(!folded) });
  }

  private hasFocus(): boolean {
    const root = this.both.getRootNode() as Document | ShadowRoot;
    return this.both.contains(root.activeElement);
  }

  private toggleFold(): void {
    this.wanted = !this.isFolded;
    this.fold();
  }

  private toggleOf(): HTMLButtonElement {
    return h(
      "button",
      {
        class: "cka-button cka-toggle cka-layers",
        type: "button",
        "aria-pressed": "true",
        title: "Show or hide the layer trees",
        onclick: () => this.toggleFold(),
      },
      icon("layers"),
      "Layers",
    );
  }

  private barOf(controls: string): HTMLButtonElement {
    return h(
      "button",
      {
        class: "cka-tree-bar",
        type: "button",
        "aria-expanded": "true",
        "aria-controls": controls,
        title: "Show or hide the layer trees",
        onclick: () => this.toggleFold(),
      },
      h("span", { class: "cka-twist" }, icon("open")),
      this.counts,
    );
  }

  private treeOf(side: Side): LayerTree {
    const { names } = this.session.comparison;
    const other = side === 0 ? 1 : 0;
    return new LayerTree(
      names[side],
      names[other],
      this.session.comparison.trees[side],
      {
        choose: (layers) => this.session.choice.choose({ [side]: layers }),
        undo: () => this.session.choice.undo(),
        mirror: () => this.mirror(side, other),
      },
    );
  }

  /** Chooses in the other tree what is chosen in this one; says what is missing there. */
  private mirror(from: Side, to: Side): void {
    const { choice, comparison, messages } = this.session;
    const tree = comparison.trees[to];
    const isThere = (name: string) => tree.canChoose(tree.rowOf.get(name) ?? -1);
    const known = choice.layers[from].filter(isThere);
    const missing = choice.layers[from].filter((name) => !isThere(name));
    if (this.mirrorNote && messages.current.text === this.mirrorNote)
      messages.dismiss();
    this.mirrorNote = missingWords(missing, comparison.names[to]);
    if (known.length === 0) {
      messages.error(
        this.mirrorNote ||
          "Expected chosen layers to mirror, got none: choose some first.",
      );
      return;
    }
    choice.choose({ [to]: tree.namesOf(tree.chosenBy(known)) });
    if (this.mirrorNote) messages.note(this.mirrorNote);
  }
}

function missingWords(names: readonly string[], model: string): string {
  if (names.length === 0) return "";
  const layers = plural(names.length, "chosen layer has", "chosen layers have");
  return `${layers} no namesake to choose in ${model}: ${some(names)}.`;
}
