/** The map as a table: every value as text, to be read, selected and copied. */

import { copyButton, mapText } from "../map/copying.ts";
import {
  type AxisView,
  type Cell,
  isPending,
  type MapView,
  pairOf,
} from "../map/view.ts";
import { textAt, valueAt } from "../map/words.ts";
import type { PerSide } from "../protocol.ts";
import type { Comparison } from "../state/comparison.ts";
import { h, setText } from "../ui/dom.ts";

/** With more layers on a side, the table shows a single row of the map. */
export const MAX_WHOLE = 60;
const REFRESH_MS = 400;

export class MapTable {
  readonly element: HTMLElement;
  private readonly comparison: Comparison;
  private readonly select: (pair: PerSide<string>) => void;
  private readonly caption = h("p", { class: "cka-caption" });
  private readonly scroller = h("div", {
    class: "cka-table-scroller",
    role: "region",
    tabindex: "0",
    "aria-label": "Values of the map",
  });
  private cells: { element: HTMLElement; at: Cell }[] = [];
  private key = "";
  private view: MapView | null = null;
  private focus: Cell | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** Clicked cells go to `select`. */
  constructor(comparison: Comparison, select: (pair: PerSide<string>) => void) {
    this.comparison = comparison;
    this.select = select;
    const copy = copyButton(
      "Copy table",
      "Copy all values and standard errors, for a spreadsheet",
      () => (this.view ? mapText(comparison, this.view) : ""),
    );
    const head = h("div", { class: "cka-table-head" }, this.caption, copy);
    this.element = h("div", { class: "cka-table", hidden: true }, head, this.scroller);
    this.scroller.addEventListener("click", (event) => this.clicked(event));
  }

  setOpen(open: boolean): void {
    this.element.hidden = !open;
    this.refresh();
  }

  destroy(): void {
    clearTimeout(this.timer);
  }

  /** Updates at once when the layers or the focus have changed, else from time to time. */
  draw(view: MapView, focus: Cell | null): void {
    const moved = focus?.row !== this.focus?.row || focus?.col !== this.focus?.col;
    this.view = view;
    this.focus = focus;
    if (this.element.hidden) return;
    if (moved || this.keyOf(view) !== this.key) this.refresh();
    else this.timer ??= setTimeout(() => this.refresh(), REFRESH_MS);
  }

  private refresh(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    const { view } = this;
    if (this.element.hidden || !view) return;
    const key = this.keyOf(view);
    if (key !== this.key) this.build(view);
    this.key = key;
    for (const { element, at } of this.cells) {
      setText(element, this.words(view, at));
      const picked = at.row === this.focus?.row && at.col === this.focus.col;
      element.classList.toggle("cka-picked", picked);
    }
  }

  private keyOf(view: MapView): string {
    const row = this.isWhole(view) ? "all" : (this.focus?.row ?? 0);
    return JSON.stringify([row, view.rows.side, view.rows.names, view.columns.names]);
  }

  private isWhole({ values }: MapView): boolean {
    return values.rows <= MAX_WHOLE && values.cols <= MAX_WHOLE;
  }

  private build(view: MapView): void {
    this.cells = [];
    const table = this.isWhole(view) ? this.whole(view) : this.oneRow(view);
    this.scroller.replaceChildren(table);
  }

  private whole(view: MapView): HTMLElement {
    const { rows, columns } = view;
    setText(this.caption, `Values \u00b1 standard error: ${this.title(rows, columns)}`);
    const head = columns.names.map((_, col) => this.header(columns, col, "col"));
    const lines = rows.names.map((_, row) =>
      h(
        "tr",
        {},
        this.header(rows, row, "row"),
        ...columns.names.map((_, col) => this.cell({ row, col })),
      ),
    );
    const corner = h("td", { class: "cka-corner-cell" });
    return h(
      "table",
      {},
      h("thead", {}, h("tr", {}, corner, ...head)),
      h("tbody", {}, ...lines),
    );
  }

  private oneRow(view: MapView): HTMLElement {
    const { rows, columns } = view;
    const row = this.focus?.row ?? 0;
    const name = this.comparison.layerName(rows.side, rows.names[row] ?? "");
    const hint = this.focus ? "" : ". Click a cell for its row";
    setText(this.caption, `${name}: ${this.title(rows, columns)}${hint}`);
    const lines = columns.names.map((_, col) =>
      h("tr", {}, this.header(columns, col, "row"), this.cell({ row, col })),
    );
    return h("table", {}, h("tbody", {}, ...lines));
  }

  private title(rows: AxisView, columns: AxisView): string {
    const { names } = this.comparison;
    return `${names[rows.side]} \u00d7 ${names[columns.side]}`;
  }

  private header(axis: AxisView, k: number, scope: "row" | "col"): HTMLElement {
    const name = this.comparison.layerName(axis.side, axis.names[k] ?? "");
    return h("th", { scope, title: name }, name);
  }

  private cell(at: Cell): HTMLElement {
    const element = h("td", { "data-at": `${at.row} ${at.col}` });
    this.cells.push({ element, at });
    return element;
  }

  private words(view: MapView, at: Cell): string {
    const number = valueAt(view, at);
    if (Number.isNaN(number)) return isPending(view, at) ? "not yet" : "undefined";
    return textAt(view, at).join(" ").trim();
  }

  private clicked(event: Event): void {
    const cell = (event.target as Element).closest<HTMLElement>("[data-at]");
    const selected = getSelection()?.toString();
    if (!cell || !this.view || selected) return;
    const [row = 0, col = 0] = (cell.dataset.at ?? "").split(" ").map(Number);
    this.select(pairOf(this.view, { row, col }));
  }
}
