/** Below the map: best matches in words, pinned cells, and the convergence plot. */

import { type Cell, cellOf, type MapView } from "../map/view.ts";
import { bestMatchWords, textAt } from "../map/words.ts";
import { type PerSide, perSide } from "../protocol.ts";
import type { Comparison } from "../state/comparison.ts";
import type { Pins } from "../state/pins.ts";
import { h, icon, patch } from "../ui/dom.ts";

export class Details {
  readonly element: HTMLElement;
  private readonly comparison: Comparison;
  private readonly pins: Pins;
  private readonly sentences = h("div", { class: "cka-sentences" });
  private readonly pinList = h("ul", {
    class: "cka-pins",
    "aria-label": "Pinned cells",
  });
  private readonly convergence: HTMLElement;

  constructor(comparison: Comparison, pins: Pins, historySlot: HTMLElement) {
    this.comparison = comparison;
    this.pins = pins;
    this.convergence = h(
      "div",
      { class: "cka-convergence" },
      h(
        "p",
        { class: "cka-caption cka-history-caption" },
        h("span", { class: "cka-dot" }),
        "The cell over the batches, with its standard error",
      ),
      historySlot,
    );
    const words = h("div", { class: "cka-words" }, this.sentences, this.pinList);
    this.element = h("div", { class: "cka-details" }, words, this.convergence);
  }

  draw(view: MapView, cell: Cell | null): void {
    const { pairs } = this.pins;
    const isEmpty = !cell && pairs.length === 0;
    this.element.classList.toggle("cka-away", isEmpty);
    this.sentences.replaceChildren(...(cell ? this.matches(view, cell) : []));
    patch(
      this.pinList,
      pairs.map((pair, k) => this.pin(view, pair, k)),
    );
    this.pinList.hidden = pairs.length === 0;
  }

  private matches(view: MapView, cell: Cell): HTMLElement[] {
    return (["row", "column"] as const).flatMap((along) => {
      const words = bestMatchWords(this.comparison, view, cell, along);
      if (!words) return [];
      return h(
        "p",
        { class: "cka-match" },
        "Best match of ",
        h("span", { class: `cka-layer cka-as-${along}` }, words.of),
        " is ",
        h("span", { class: "cka-layer" }, words.match),
        ` ${words.rest}`,
      );
    });
  }

  private pin(view: MapView, pair: PerSide<string>, k: number): HTMLElement {
    const at = cellOf(view, pair);
    const names = perSide((side) => this.comparison.layerName(side, pair[side]));
    const swatch = h("span", { class: "cka-dot" });
    swatch.style.setProperty("--color", `var(--cka-pin${k + 1})`);
    const props = {
      class: "cka-button cka-quiet",
      type: "button",
      "aria-label": `Unpin ${names.join(" by ")}`,
      onclick: () => this.pins.toggle(pair),
    };
    return h(
      "li",
      { class: "cka-pin", "data-key": pair.join("\n") },
      swatch,
      h("span", { class: "cka-layer" }, names.join(" \u00d7 ")),
      h("span", { class: "cka-pin-value" }, at ? textAt(view, at)[0] : "not shown"),
      h("button", props, icon("close")),
    );
  }
}
