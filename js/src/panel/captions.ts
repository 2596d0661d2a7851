/** The text around the map: captions of the trends, the value, the readout. */

import type { PictureKind } from "../drawing/picture.ts";
import { cellText, codeText, copyButton } from "../map/copying.ts";
import type { AxisView, Cell, MapView } from "../map/view.ts";
import { readout, textAt } from "../map/words.ts";
import { ellipsis } from "../matrix/labels.ts";
import type { LayerChoice } from "../state/choice.ts";
import type { Comparison } from "../state/comparison.ts";
import { h, icon, setText } from "../ui/dom.ts";

const HOW_TO =
  "Shift+click pins a series \u00b7 drag or Ctrl+wheel zooms, Shift+drag moves";
/** Longer names are shortened in the middle. */
const ROW_LIMIT = 56;
const COLUMN_LIMIT = 36;

/** A layer of one axis against all layers of the other. */
interface Trend {
  readonly own: AxisView;
  readonly other: AxisView;
  readonly index: number;
  readonly limit: number;
}

type CaptionPart = HTMLElement | string;

export interface CaptionHandlers {
  /** Clears the focus. */
  clear(): void;
  save(kind: PictureKind): void;
}

export class Captions {
  readonly row = h("p", { class: "cka-caption cka-row-caption" });
  readonly corner: HTMLElement;
  readonly readout: HTMLElement;
  private readonly comparison: Comparison;
  private readonly column = h("p", { class: "cka-caption cka-column-caption" });
  private readonly value = h("p", { class: "cka-focus-value" });
  private readonly error = h("p", { class: "cka-focus-error" });
  private readonly clear: HTMLButtonElement;
  private readonly copy: HTMLButtonElement;
  private read: readonly [MapView, Cell] | null = null;
  private readonly names = h("p", { class: "cka-read-names" });
  private readonly facts = h("p", { class: "cka-read-facts" });

  constructor(comparison: Comparison, choice: LayerChoice, handlers: CaptionHandlers) {
    this.comparison = comparison;
    this.clear = clearButton(() => handlers.clear());
    this.corner = h(
      "div",
      { class: "cka-corner" },
      this.value,
      h("div", { class: "cka-focus" }, this.error, this.clear),
      this.column,
    );
    this.copy = copyButton("Copy", "Copy layers and value (Ctrl+C on the map)", () =>
      this.read ? cellText(comparison, ...this.read) : "",
    );
    const code = copyButton(
      "Copy as code",
      "Copy the Python call that compares these layers again",
      () => codeText(comparison, choice.layers),
    );
    code.hidden = comparison.code.length === 0;
    const actions = [this.copy, code, ...saveButtons((kind) => handlers.save(kind))];
    this.readout = h(
      "div",
      { class: "cka-readout" },
      h("div", { class: "cka-read" }, this.names, this.facts),
      h("div", { class: "cka-read-actions" }, ...actions),
    );
  }

  /** Says whose trends are drawn; only a cell in focus can be cleared. */
  drawTrends(view: MapView, cell: Cell | null, isFocus: boolean): void {
    const { rows, columns } = view;
    if (cell) {
      const row = { own: rows, other: columns, index: cell.row, limit: ROW_LIMIT };
      this.row.replaceChildren(...this.caption(row, (name) => [name]));
      const column = { own: columns, other: rows, index: cell.col };
      this.column.replaceChildren(
        ...this.caption({ ...column, limit: COLUMN_LIMIT }, breakable),
      );
    } else {
      const hint = "Click a cell to see its row and its column";
      this.row.replaceChildren(hint);
      this.column.replaceChildren();
    }
    const [number, error] = cell ? textAt(view, cell) : ["", ""];
    setText(this.value, number);
    setText(this.error, error);
    this.clear.hidden = !isFocus;
  }

  drawReadout(view: MapView | null, cell: Cell | null): void {
    this.read = view && cell ? [view, cell] : null;
    this.copy.classList.toggle("cka-unseen", !this.read);
    if (!view || !cell) {
      const hint = view ? "Point at a cell to read it" : "";
      this.names.replaceChildren(h("span", { class: "cka-hint" }, hint));
      setText(this.facts, HOW_TO);
      return;
    }
    const read = readout(this.comparison, view, cell);
    const [row, column] = view.rows.side === 0 ? [0, 1] : [1, 0];
    this.names.replaceChildren(
      h("span", { class: "cka-layer cka-as-row" }, read.names[row] ?? ""),
      h("span", { class: "cka-times" }, "\u00d7"),
      h("span", { class: "cka-layer cka-as-column" }, read.names[column] ?? ""),
      h("span", { class: "cka-read-value" }, read.value),
    );
    setText(this.facts, read.facts);
  }

  private caption(
    { own, other, index, limit }: Trend,
    wordsOf: (name: string) => CaptionPart[],
  ): CaptionPart[] {
    const { names } = this.comparison;
    const name = this.comparison.layerName(own.side, own.names[index] ?? "");
    return [
      h("span", { class: "cka-dot" }),
      h("b", { title: name }, ...wordsOf(ellipsis(name, limit))),
      ` of ${names[own.side]} against ${names[other.side]}`,
    ];
  }
}

function clearButton(onclick: () => void): HTMLButtonElement {
  const props = {
    class: "cka-button cka-clear",
    type: "button",
    title: "Clear the focus (Escape)",
    "aria-label": "Clear the focus",
    onclick,
  };
  return h("button", props, icon("close"), h("span", {}, "Clear"));
}

const SAVE_HELP: Record<PictureKind, string> = {
  png: "Save the map as it is shown, as a picture",
  svg: "Save the map as it is shown, as a drawing for print",
};

function saveButtons(save: (kind: PictureKind) => void): HTMLButtonElement[] {
  return (["png", "svg"] as const).map((kind) => {
    const label = kind.toUpperCase();
    const props = {
      class: "cka-button cka-quiet",
      type: "button",
      title: SAVE_HELP[kind],
      "aria-label": `Save ${label}`,
      onclick: () => save(kind),
    };
    return h("button", props, icon("save"), label);
  });
}

/** A dotted name that may break after each dot. */
function breakable(name: string): CaptionPart[] {
  return name.split(/(?<=\.)/).flatMap((part) => [part, h("wbr")]);
}
