/** The layer selector of one model: a tree in, chosen names out. Draws only visible rows. */

import type { BoxState, Tree, TreeLine, TreeNode } from "../state/tree.ts";
import { h, patch, set, setText, uniqueId } from "../ui/dom.ts";
import { count, errorText, plural } from "../ui/format.ts";
import {
  chipButtons,
  FIRST_CHIPS,
  iconButton,
  moreButton,
  presetButtons,
  searchBox,
  setHelp,
  total,
} from "./buttons.ts";
import { matches } from "./query.ts";
import { aboutRow, treeRow } from "./row.ts";

export interface LayerTreeHandlers {
  choose(names: string[]): void;
  undo(): void;
  mirror(): void;
}

const ROW_HEIGHT = 24;
/** Drawn above and below the visible rows, so that quick scrolling shows no gaps. */
const SPARE_ROWS = 4;
const VIEWPORT_ROWS = 14;
/** At most this many lines are opened at first; more would be a list, not a tree. */
const OPEN_LINES = 40;
const TYPE_AHEAD_MS = 700;

export class LayerTree {
  readonly element: HTMLElement;
  /** "11 of 59 layers" */
  counts = "";
  private tree: Tree;
  private chosen: Uint8Array;
  private readonly handlers: LayerTreeHandlers;
  private open: Set<string>;
  private foldedMatches = new Set<string>();
  private filter: Uint8Array | null = null;
  private lines: TreeLine[] = [];
  private active = 0;
  /** The line under the mouse, described below the tree. */
  private pointed: number | null = null;
  private anchor: number | null = null;
  private typed = "";
  private typedAt = 0;
  private allChips = false;
  private readonly prefix = uniqueId("row");
  private readonly summary = h("span", { class: "cka-tree-count", role: "status" });
  private readonly undoButton = iconButton("undo", () => this.handlers.undo());
  private readonly invertButton = iconButton("invert", () => this.invert());
  private readonly presets = h("div", { class: "cka-segments", role: "group" });
  private readonly search: HTMLInputElement;
  private readonly found = h("span", { class: "cka-found", role: "status" });
  private readonly chips = h("div", { class: "cka-chips", role: "group" });
  private readonly viewport: HTMLElement;
  private readonly canvas = h("div", { class: "cka-rows", role: "presentation" });
  private readonly about = h("div", { class: "cka-about" });

  constructor(name: string, other: string, tree: Tree, handlers: LayerTreeHandlers) {
    this.tree = tree;
    this.handlers = handlers;
    this.chosen = new Uint8Array(tree.size);
    this.open = new Set();
    this.search = searchBox(name, () => this.searched());
    this.viewport = this.viewportOf(name);
    setHelp(this.undoButton, "Undo the last choice", "Undo the last choice (Ctrl+Z)");
    set(this.presets, { "aria-label": `Presets for ${name}` });
    set(this.chips, { "aria-label": `Types of ${name}` });
    this.element = h(
      "section",
      { class: "cka-tree", "aria-label": `Layers of ${name}` },
      this.headOf(name, other),
      this.presets,
      h("div", { class: "cka-search-row" }, this.search, this.found),
      this.chips,
      this.viewport,
      this.about,
    );
  }

  private headOf(name: string, other: string): HTMLElement {
    const mirrorButton = iconButton("mirror", () => this.handlers.mirror());
    setHelp(
      mirrorButton,
      `Mirror the choice to ${other}`,
      `Choose the layers of the same names in ${other}`,
    );
    return h(
      "div",
      { class: "cka-tree-head" },
      h("h3", { class: "cka-tree-title", title: name }, name),
      this.summary,
      h("div", {}, this.undoButton, this.invertButton, mirrorButton),
    );
  }

  setTree(tree: Tree): void {
    const first = this.tree !== tree && this.tree.size !== tree.size;
    this.tree = tree;
    if (first) this.active = 0;
    this.searched();
  }

  setChosen(names: readonly string[], canUndo: boolean): void {
    this.chosen = this.tree.chosenBy(names);
    if (this.open.size === 0) this.open = this.tree.opened(this.chosen, OPEN_LINES);
    this.counts = `${count(names.length)} of ${plural(this.tree.choosable(null).length, "layer")}`;
    setText(this.summary, this.counts);
    this.undoButton.disabled = !canUndo;
    this.draw();
  }

  /** Draws everything again, also after the viewport has changed its size. */
  draw(): void {
    this.lines = this.tree.lines((node) => this.isOpen(node), this.filter);
    this.active = Math.min(this.active, Math.max(0, this.lines.length - 1));
    this.canvas.style.height = `${this.lines.length * ROW_HEIGHT}px`;
    const visible = Math.max(3, Math.min(VIEWPORT_ROWS, this.lines.length));
    this.viewport.style.height = `${visible * ROW_HEIGHT}px`;
    this.drawButtons();
    this.drawRows();
  }

  private isOpen(node: TreeNode): boolean {
    return this.filter ? !this.foldedMatches.has(node.id) : this.open.has(node.id);
  }

  private commit(chosen: Uint8Array): void {
    this.handlers.choose(this.tree.namesOf(chosen));
  }

  private searched(): void {
    this.foldedMatches = new Set();
    let problem = "";
    try {
      this.filter = matches(this.search.value, this.tree.columns);
    } catch (error) {
      this.filter = null;
      problem = errorText(error);
    }
    const hits = this.filter ? total(this.filter) : null;
    const text = hits === null ? "" : hits === 0 ? "nothing" : count(hits);
    setText(this.found, problem || text);
    this.found.classList.toggle("cka-problem", problem !== "");
    set(this.search, { "aria-invalid": problem !== "" });
    this.draw();
  }

  private viewportOf(name: string): HTMLElement {
    return h(
      "div",
      {
        class: "cka-viewport",
        role: "tree",
        tabindex: "0",
        "aria-multiselectable": "true",
        "aria-label": `Layers of ${name}`,
        onscroll: () => this.drawRows(),
        onkeydown: (event: KeyboardEvent) => this.pressed(event),
        onclick: (event: MouseEvent) => this.clicked(event),
        onmouseover: (event: MouseEvent) => this.point(indexAt(event)),
        onmouseleave: () => this.point(null),
      },
      this.canvas,
    );
  }

  private drawButtons(): void {
    const { tree, chosen, filter } = this;
    const commit = (next: Uint8Array) => this.commit(next);
    this.drawInvert();
    patch(this.presets, presetButtons(tree, chosen, commit));
    const limit = this.allChips ? Number.POSITIVE_INFINITY : FIRST_CHIPS;
    const { chips, rest } = chipButtons(tree, chosen, filter, limit, commit);
    const toggle = () => {
      this.allChips = !this.allChips;
      this.drawButtons();
    };
    if (rest > 0) chips.push(moreButton(rest, this.allChips, toggle));
    patch(this.chips, chips);
  }

  private drawInvert(): void {
    const rows = this.tree.choosable(this.filter);
    const on = rows.filter((row) => this.chosen[row]).length;
    const off = rows.length - on;
    this.invertButton.disabled = rows.length === 0;
    setHelp(
      this.invertButton,
      this.filter ? "Invert the choice of the matches" : "Invert the choice",
      `${this.filter ? "Among the matches, choose" : "Choose"} the layers that are ` +
        `not chosen (${count(off)}) instead of those that are (${count(on)})`,
    );
  }

  private drawRows(): void {
    const boxOf = this.tree.boxes(this.chosen);
    const rows = this.visibleIndices().flatMap((index) => {
      const line = this.lines[index];
      return line ? [this.row(line, index, boxOf(line.node))] : [];
    });
    patch(this.canvas, rows.length > 0 ? rows : [this.emptyRow()]);
    const id = this.lines.length > 0 ? `${this.prefix}-${this.active}` : undefined;
    set(this.viewport, { "aria-activedescendant": id });
    this.drawAbout();
  }

  /** Lines to draw: the visible ones, a few around them, and the active one. */
  private visibleIndices(): number[] {
    const top = this.viewport.scrollTop;
    const height = this.viewport.clientHeight || VIEWPORT_ROWS * ROW_HEIGHT;
    const from = Math.max(0, Math.floor(top / ROW_HEIGHT) - SPARE_ROWS);
    const below = Math.ceil((top + height) / ROW_HEIGHT) + SPARE_ROWS;
    const to = Math.min(this.lines.length, below);
    const indices = Array.from({ length: Math.max(0, to - from) }, (_, k) => from + k);
    const { active } = this;
    return active < from || active >= to ? [...indices, active] : indices;
  }

  private emptyRow(): HTMLElement {
    const isUnknown = this.tree.size === 0;
    const text = isUnknown ? "This model's layers are not known." : "No layer matches.";
    return h("div", { class: "cka-empty", role: "presentation" }, text);
  }

  private point(index: number | null): void {
    this.pointed = index;
    this.drawAbout();
  }

  private drawAbout(): void {
    const line = this.lines[this.pointed ?? this.active] ?? this.lines[this.active];
    this.about.replaceChildren(...(line ? aboutRow(this.tree, line.node) : []));
  }

  private row(line: TreeLine, index: number, state: BoxState): HTMLElement {
    const element = treeRow(this.tree, line, {
      state,
      isOpen: this.isOpen(line.node),
      isOwn: line.node.kind === "module" && this.chosen[line.node.first] === 1,
      filter: this.filter,
    });
    element.id = `${this.prefix}-${index}`;
    element.dataset.key = line.node.id;
    element.dataset.index = String(index);
    element.style.top = `${index * ROW_HEIGHT}px`;
    element.classList.toggle("cka-active", index === this.active);
    return element;
  }

  private clicked(event: MouseEvent): void {
    const index = indexAt(event);
    const line = this.lines[index ?? -1];
    if (index === null || !line) return;
    this.active = index;
    const part = (event.target as Element).closest<HTMLElement>("[data-part]")?.dataset
      .part;
    if (part === "twist") this.fold(line.node, !this.isOpen(line.node));
    else if (event.shiftKey && this.anchor !== null) this.toggleRange(index);
    else if (event.altKey) this.toggleAlone(line.node);
    else this.toggle(line.node);
    if (!event.shiftKey) this.anchor = index;
  }

  private toggle(node: TreeNode): void {
    const next = this.tree.toggled(this.chosen, node, this.filter);
    this.commitIfNew(next);
  }

  private toggleAlone(node: TreeNode): void {
    if (node.kind === "run" || !this.tree.canChoose(node.first)) return;
    const next = Uint8Array.from(this.chosen);
    next[node.first] = next[node.first] ? 0 : 1;
    this.commitIfNew(next);
  }

  /** Sets all lines between the last one clicked and this one to the state of that one. */
  private toggleRange(index: number): void {
    const anchor = this.lines[this.anchor ?? index];
    if (!anchor) return;
    const on = this.tree.boxes(this.chosen)(anchor.node) === "checked";
    const [low, high] = [
      Math.min(index, this.anchor ?? 0),
      Math.max(index, this.anchor ?? 0),
    ];
    const next = Uint8Array.from(this.chosen);
    for (const { node } of this.lines.slice(low, high + 1)) {
      const isLeaf = node.children.length === 0 || !this.isOpen(node);
      for (const row of isLeaf ? this.tree.targets(node) : []) {
        if (!this.filter || this.filter[row]) next[row] = on ? 1 : 0;
      }
    }
    this.commitIfNew(next);
  }

  private commitIfNew(next: Uint8Array): void {
    if (next.some((flag, row) => flag !== this.chosen[row])) this.commit(next);
    else this.drawRows();
  }

  private fold(node: TreeNode, open: boolean): void {
    if (this.filter) {
      if (open) this.foldedMatches.delete(node.id);
      else this.foldedMatches.add(node.id);
    } else if (open) this.open.add(node.id);
    else this.open.delete(node.id);
    this.draw();
  }

  private pressed(event: KeyboardEvent): void {
    const line = this.lines[this.active];
    if (!line || !(this.movedBy(event.key) || this.actedBy(event, line))) return;
    event.preventDefault();
  }

  /** Moves the active line, if the key does that. */
  private movedBy(key: string): boolean {
    const page = Math.max(1, Math.floor(this.viewport.clientHeight / ROW_HEIGHT) - 1);
    const moves: Record<string, number> = {
      ArrowDown: this.active + 1,
      ArrowUp: this.active - 1,
      Home: 0,
      End: this.lines.length - 1,
      PageDown: this.active + page,
      PageUp: this.active - page,
    };
    const to = moves[key];
    if (to !== undefined) this.move(to);
    return to !== undefined;
  }

  /** Does what the key stands for on the active line, if it stands for anything. */
  private actedBy(event: KeyboardEvent, line: TreeLine): boolean {
    const { key } = event;
    const hasControl = event.ctrlKey || event.metaKey;
    if (key === "ArrowRight") this.right(line.node);
    else if (key === "ArrowLeft") this.left(line.node);
    else if (key === " " || key === "Enter") this.toggleBy(event, line.node);
    else if (key === "*") this.openSiblings(line);
    else if (hasControl && key.toLowerCase() === "a") {
      event.stopPropagation();
      this.chooseMatches();
    } else if (key.length === 1 && !hasControl) this.typeAhead(key);
    else return false;
    return true;
  }

  private toggleBy(event: KeyboardEvent, node: TreeNode): void {
    if (event.altKey) this.toggleAlone(node);
    else if (event.shiftKey && this.anchor !== null) this.toggleRange(this.active);
    else this.toggle(node);
    if (!event.shiftKey) this.anchor = this.active;
  }

  private move(index: number): void {
    this.active = Math.max(0, Math.min(this.lines.length - 1, index));
    const top = this.active * ROW_HEIGHT;
    const { scrollTop, clientHeight } = this.viewport;
    if (top < scrollTop) this.viewport.scrollTop = top;
    else if (top + ROW_HEIGHT > scrollTop + clientHeight) {
      this.viewport.scrollTop = top + ROW_HEIGHT - clientHeight;
    }
    this.drawRows();
  }

  private right(node: TreeNode): void {
    if (node.children.length === 0) return;
    if (this.isOpen(node)) this.move(this.active + 1);
    else this.fold(node, true);
  }

  private left(node: TreeNode): void {
    if (node.children.length > 0 && this.isOpen(node)) {
      this.fold(node, false);
      return;
    }
    for (let k = this.active - 1; k >= 0; k--) {
      if ((this.lines[k]?.node.depth ?? 0) < node.depth) {
        this.move(k);
        return;
      }
    }
  }

  private openSiblings(line: TreeLine): void {
    for (const { node } of this.lines) {
      const alike = node.depth === line.node.depth && node.children.length > 0;
      if (alike)
        this.filter ? this.foldedMatches.delete(node.id) : this.open.add(node.id);
    }
    const { id } = line.node;
    this.draw();
    this.move(this.lines.findIndex(({ node }) => node.id === id));
  }

  private chooseMatches(): void {
    const next = Uint8Array.from(this.chosen);
    for (const row of this.tree.choosable(this.filter)) next[row] = 1;
    this.commitIfNew(next);
  }

  private invert(): void {
    this.commitIfNew(this.tree.inverted(this.chosen, this.filter));
  }

  private typeAhead(key: string): void {
    const now = Date.now();
    this.typed = now - this.typedAt > TYPE_AHEAD_MS ? key : this.typed + key;
    this.typedAt = now;
    const start = this.typed.length > 1 ? this.active : this.active + 1;
    for (let k = 0; k < this.lines.length; k++) {
      const index = (start + k) % this.lines.length;
      const label = this.lines[index]?.node.label ?? "";
      const last = label.slice(label.lastIndexOf(".") + 1);
      if (last.toLowerCase().startsWith(this.typed.toLowerCase())) {
        this.move(index);
        return;
      }
    }
  }
}

/** Index of the line under a mouse event. */
function indexAt(event: MouseEvent): number | null {
  const row = (event.target as Element).closest<HTMLElement>(".cka-row");
  return row ? Number(row.dataset.index) : null;
}
