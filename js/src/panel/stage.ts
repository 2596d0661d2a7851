/** The stage of the map: places for the charts, and what is laid over and around them. */

import type { FigureName } from "../drawing/charts.ts";
import type { Geometry } from "../drawing/surface.ts";
import { h, setText } from "../ui/dom.ts";

const BORDERS = ["left", "right", "top", "bottom", "aside"] as const;

interface StageParts {
  readonly rowCaption: HTMLElement;
  readonly corner: HTMLElement;
  readonly zoom: HTMLElement;
  /** Laid over the map, from the lowest up. */
  readonly sketch: Element;
  readonly margins: Element;
  readonly grid: Element;
}

export class Stage {
  readonly element: HTMLElement;
  readonly slots: Readonly<Record<FigureName, HTMLElement>> = {
    map: slot("map"),
    row_trend: slot("row-trend"),
    column_trend: slot("column-trend"),
    history: slot("history"),
  };
  private readonly waiting = h("p", { class: "cka-waiting", role: "status" });
  private readonly over = h("p", { class: "cka-over" });

  constructor({ rowCaption, corner, zoom, sketch, margins, grid }: StageParts) {
    const { map, row_trend, column_trend } = this.slots;
    const layers = [map, sketch, margins, this.over, grid];
    this.element = h(
      "div",
      { class: "cka-stage cka-not-yet" },
      h("div", { class: "cka-above" }, rowCaption, zoom, row_trend, this.waiting),
      corner,
      h("div", { class: "cka-map-holder" }, ...layers),
      column_trend,
    );
    this.setWaiting("Preparing the plots\u2026");
  }

  /** Says what the plots wait for, or why there are none; "" once they are painted. */
  setWaiting(text: string): void {
    setText(this.waiting, text);
    this.waiting.hidden = text === "";
  }

  /** Words over a map that has no frame yet; null once it has. */
  setOver(text: string | null): void {
    setText(this.over, text ?? "");
    this.over.hidden = text === null;
  }

  setGeometry(geometry: Geometry): void {
    const { style } = this.element;
    for (const side of BORDERS) style.setProperty(`--${side}`, `${geometry[side]}px`);
    style.setProperty("--frame-height", `${geometry.height}px`);
  }

  /** Shows the charts in place of the sketch. */
  showCharts(): void {
    this.element.classList.remove("cka-not-yet");
  }

  /** Shows the sketch again in place of charts that have failed, and says why. */
  hideCharts(why: string): void {
    this.setWaiting(why);
    this.element.classList.add("cka-not-yet");
    for (const slot of Object.values(this.slots)) slot.replaceChildren();
  }
}

function slot(name: string): HTMLElement {
  return h("div", { class: `cka-slot cka-${name}` });
}
