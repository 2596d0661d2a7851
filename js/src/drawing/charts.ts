/**
 * The map and its trends in BokehJS: embeds the figures that Python's `_figures` made,
 * finds their models by name, and from then on replaces data, ranges and colors.
 */

import type { Box, BoxKind } from "../map/image.ts";
import type { Marks } from "../map/marks.ts";
import type { Cell } from "../map/view.ts";
import type { TicksOf } from "../matrix/labels.ts";
import type { FigureJson } from "../protocol.ts";
import type { Theme } from "../ui/theme.ts";
import {
  type Attributes,
  type Bokeh,
  type BokehDocument,
  type BokehModel,
  type BokehRange,
  embedded,
  type ImageArray,
  type Plot,
  release,
  type Source,
  unzipped,
  type ViewManager,
} from "./bokehjs.ts";
import {
  ABOVE_NUMBER,
  type Geometry,
  type PinnedLine,
  type Span,
  type Surface,
  type SurfaceHandlers,
  type TrendLine,
  type Viewport,
} from "./surface.ts";

const TOP = 6;
/** A border with nothing but the end of an axis. */
const RIGHT = 10;

const FIGURES = ["map", "row_trend", "column_trend", "history"] as const;

export type FigureName = (typeof FIGURES)[number];

export class Charts implements Surface {
  private readonly bokeh: Bokeh;
  private readonly views: ViewManager;
  private readonly document: BokehDocument;
  private readonly slots: Readonly<Record<FigureName, HTMLElement>>;
  private readonly handlers: SurfaceHandlers;
  private readonly toArray: ImageArray;
  private readonly abort = new AbortController();
  private size = { rows: 1, cols: 1 };
  private ticks: { rows: TicksOf; columns: TicksOf } | null = null;
  private shift = false;

  static async embed(
    bokeh: Bokeh,
    figures: FigureJson,
    slots: Readonly<Record<FigureName, HTMLElement>>,
    handlers: SurfaceHandlers,
  ): Promise<Charts> {
    const nameOf = new Map(
      Object.entries(figures.roots).map(([name, id]) => [id, name]),
    );
    const doc: { roots: { id: string }[] } = JSON.parse(await unzipped(figures.doc));
    const roots = doc.roots.map(
      ({ id }) => [id, slots[nameOf.get(id) as FigureName]] as const,
    );
    const views = await embedded(bokeh, doc, new Map(roots));
    return new Charts(bokeh, views, slots, handlers);
  }

  private constructor(
    bokeh: Bokeh,
    views: ViewManager,
    slots: Readonly<Record<FigureName, HTMLElement>>,
    handlers: SurfaceHandlers,
  ) {
    this.bokeh = bokeh;
    this.views = views;
    this.slots = slots;
    this.handlers = handlers;
    for (const each of views) withoutOutline(each);
    const [view] = views;
    this.document = view?.model.document as BokehDocument;
    const [image] = this.source("map_source").data.image as object[];
    this.toArray = image?.constructor as ImageArray;
    this.listen();
  }

  destroy(): void {
    this.abort.abort();
    this.views.clear();
    release(this.bokeh, this.document);
  }

  /** Size of one cell in pixels at the present zoom. */
  get cellPixels(): { width: number; height: number } {
    const { inner_width: width, inner_height: height } = this.plot("map");
    const [columns, rows] = [this.range("columns_range"), this.range("rows_range")];
    return {
      width: width / Math.abs(columns.end - columns.start),
      height: height / Math.abs(rows.end - rows.start),
    };
  }

  /** What the map is zoomed to. */
  get viewport(): Viewport {
    const ends = ({ start, end }: BokehRange): [number, number] => [
      Math.min(start, end),
      Math.max(start, end),
    ];
    return {
      rows: ends(this.range("rows_range")),
      cols: ends(this.range("columns_range")),
    };
  }

  /** The cells that are at least partly visible, on both axes. */
  get visibleCells(): { rows: [number, number]; cols: [number, number] } {
    const { rows, cols } = this.viewport;
    const seen = ([low, high]: Span, size: number): [number, number] => [
      Math.max(0, Math.floor(low)),
      Math.min(size, Math.ceil(high)),
    ];
    return { rows: seen(rows, this.size.rows), cols: seen(cols, this.size.cols) };
  }

  setImage(image: Float32Array, rows: number, cols: number): void {
    const resized = rows !== this.size.rows || cols !== this.size.cols;
    this.size = { rows, cols };
    const array = new this.toArray(image, [rows, cols]);
    this.source("map_source").data = {
      image: [array],
      x: [0],
      y: [0],
      dw: [cols],
      dh: [rows],
    };
    if (resized) this.resetZoom();
  }

  setBoxes(kind: BoxKind, boxes: Box): void {
    this.source(`${kind}_source`).data = { ...boxes };
  }

  setNumbers(numbers: { x: number[]; y: number[]; text: string[]; color: string[] }) {
    this.source("numbers_source").data = numbers;
  }

  setMarker(name: "focus" | "hover" | "pins", cells: readonly Cell[]): void {
    this.source(`${name}_source`).data = {
      x: cells.map(({ col }) => col + 0.5),
      y: cells.map(({ row }) => row + 0.5),
    };
  }

  setTrend(name: "row" | "column" | "history", line: TrendLine | null): void {
    const { at = [], value = [], stderr = [] } = line ?? {};
    const bands = bandsOf({ at, value, stderr });
    const isTurned = name === "column";
    this.source(`${name}_source`).data = isTurned
      ? { x: [...value], y: [...at] }
      : { x: [...at], y: [...value] };
    this.source(`${name}_band_source`).data = isTurned
      ? { xs: bands.value, ys: bands.at }
      : { xs: bands.at, ys: bands.value };
  }

  setPins(name: "row" | "column" | "history", lines: readonly PinnedLine[]): void {
    const along = lines.map(({ at }) => [...at]);
    const values = lines.map(({ value }) => [...value]);
    const [xs, ys] = name === "column" ? [values, along] : [along, values];
    this.source(`${name}_pins_source`).data = {
      ...{ xs, ys },
      color: lines.map(({ color }) => color),
      dash: lines.map(({ dash }) => dash),
    };
    this.source(`${name}_pin_points`).data = {
      ...{ x: xs.flat(), y: ys.flat() },
      color: lines.flatMap(({ at, color }) => at.map(() => color)),
      marker: lines.flatMap(({ at, marker }) => at.map(() => marker)),
    };
  }

  /** Marks cells in the middle, or above their numbers. */
  setMarks({ ofRows, ofColumns, path }: Marks, hasNumbers: boolean): void {
    const place = (cells: readonly Cell[]) => ({
      x: cells.map(({ col }) => col + 0.5),
      y: cells.map(({ row }) => row + (hasNumbers ? ABOVE_NUMBER : 0.5)),
    });
    this.source("row_matches").data = place(ofRows);
    this.source("column_matches").data = place(ofColumns);
    this.source("path_source").data = place(path);
  }

  setTicks(rows: TicksOf, columns: TicksOf): void {
    this.ticks = { rows, columns };
    this.updateTicks();
  }

  setColors(palette: readonly string[], low: number, high: number): void {
    this.model("color_mapper").setv({ palette: [...palette], low, high });
  }

  setTrendRange(low: number, high: number): void {
    this.range("value_range").setv({ start: low, end: high });
  }

  setHistoryRange(batches: [number, number], values: [number, number]): void {
    this.range("batches_range").setv({ start: batches[0], end: batches[1] });
    this.range("history_range").setv({ start: values[0], end: values[1] });
  }

  setGeometry(geometry: Geometry): void {
    const { left, right, top, bottom, width, height } = geometry;
    const { trend, aside, history } = geometry;
    const tall = height + top + bottom;
    const beside = { left, right };
    const above = { top, bottom };
    this.setSize("map", { width, height: tall }, { ...beside, ...above });
    this.setSize(
      "row_trend",
      { width, height: trend },
      { ...beside, top: TOP, bottom: TOP },
    );
    this.setSize(
      "column_trend",
      { width: Math.max(60, aside), height: tall },
      { left: TOP, right: RIGHT, ...above },
    );
    this.setSize("history", history, { left: 44, right: RIGHT, top: TOP, bottom: 24 });
  }

  private setSize(
    name: FigureName,
    size: { readonly width: number; readonly height: number },
    border: Readonly<Record<"left" | "right" | "top" | "bottom", number>>,
  ): void {
    this.plot(name).setv({
      ...size,
      min_border_left: border.left,
      min_border_right: border.right,
      min_border_top: border.top,
      min_border_bottom: border.bottom,
    });
  }

  setTheme(theme: Theme): void {
    for (const name of FIGURES) this.setAxisColors(name, theme);
    this.plot("row_trend").center.slice(0, 1).forEach(withoutLines);
    this.plot("column_trend").center.slice(1, 2).forEach(withoutLines);
    for (const name of ["row", "column", "history"] as const) {
      const color = theme[name];
      this.model(`${name}_band`).setv({ fill_color: color });
      this.model(`${name}_line`).setv({ line_color: color });
      this.model(`${name}_points`).setv({ line_color: color, fill_color: color });
    }
    for (const kind of ["undefined", "pending"]) {
      this.model(kind).setv({ fill_color: theme.muted, hatch_color: theme.muted });
    }
  }

  private setAxisColors(name: FigureName, theme: Theme): void {
    const { below, left, above, center } = this.plot(name);
    for (const axis of [...below, ...left, ...above]) axis.setv(axisColors(theme));
    for (const grid of name === "map" ? [] : center) {
      if ("grid_line_color" in grid) grid.setv({ grid_line_color: theme.grid });
    }
  }

  resetZoom(): void {
    const { rows, cols } = this.size;
    this.setRange("columns_range", 0, cols);
    this.setRange("rows_range", rows, 0);
  }

  get isZoomed(): boolean {
    const { rows, cols } = this.size;
    const [x, y] = [this.range("columns_range"), this.range("rows_range")];
    return x.start !== 0 || x.end !== cols || y.start !== rows || y.end !== 0;
  }

  updateTicks(): void {
    this.updateAxis("rows", this.plot("map").inner_height);
    this.updateAxis("columns", this.plot("map").inner_width);
    const { width, height } = this.cellPixels;
    this.model("row_points").setv({ size: { value: dotSize(width) } });
    this.model("column_points").setv({ size: { value: dotSize(height) } });
  }

  private updateAxis(name: "rows" | "columns", pixels: number): void {
    const range = this.range(`${name}_range`);
    const found = this.ticks?.[name](range.start, range.end, pixels);
    const { ticks = [], labels = new Map() } = found ?? {};
    this.model(`${name}_axis`).setv({ major_label_overrides: labels });
    this.model(`${name}_ticker`).setv({ ticks });
  }

  private setRange(name: string, start: number, end: number): void {
    const range = this.range(name);
    range.setv({ bounds: null });
    range.setv({ start, end, reset_start: start, reset_end: end });
    range.setv({ bounds: [Math.min(start, end), Math.max(start, end)] });
  }

  private listen(): void {
    const map = this.plot("map");
    map.on_event("tap", (event) => {
      const cell = this.cellAt(event);
      if (cell) this.handlers.tap(cell, this.shift);
    });
    map.on_event("mousemove", (event) => this.handlers.hover(this.cellAt(event)));
    map.on_event("doubletap", () => this.resetZoom());
    this.listenToPointer();
    this.listenToZoom();
  }

  /** What BokehJS's own events do not tell. */
  private listenToPointer(): void {
    const { signal } = this.abort;
    const { map } = this.slots;
    map.addEventListener("pointerleave", () => this.handlers.hover(null), { signal });
    const pressed = (event: PointerEvent) => {
      this.shift = event.shiftKey;
      this.model("zoom_tool").setv({ active: !event.shiftKey });
      this.model("pan_tool").setv({ active: event.shiftKey });
    };
    map.addEventListener("pointerdown", pressed, { signal, capture: true });
    // Without Ctrl the wheel belongs to the page: BokehJS must not see it.
    const pass = (event: WheelEvent) => {
      if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
    };
    for (const element of Object.values(this.slots)) {
      element.addEventListener("wheel", pass, { signal, capture: true });
    }
  }

  private listenToZoom(): void {
    const moved = () => {
      this.updateTicks();
      this.handlers.zoomed();
    };
    const connect = (model: BokehModel, names: readonly string[]) => {
      for (const name of names) model.properties[name]?.change.connect(moved);
    };
    connect(this.range("columns_range"), ["start", "end"]);
    connect(this.range("rows_range"), ["start", "end"]);
    connect(this.plot("map"), ["inner_width", "inner_height"]);
  }

  private cellAt({ x, y }: { x: number; y: number }): Cell | null {
    const [row, col] = [Math.floor(y), Math.floor(x)];
    const { rows, cols } = this.size;
    return row >= 0 && col >= 0 && row < rows && col < cols ? { row, col } : null;
  }

  private model(name: string): BokehModel {
    const model = this.document.get_model_by_name(name);
    if (!model) throw new Error(`The figures have no model named "${name}".`);
    return model;
  }

  private plot(name: FigureName): Plot {
    return this.model(name) as Plot;
  }

  private source(name: string): Source {
    return this.model(name) as Source;
  }

  private range(name: string): BokehRange {
    return this.model(name) as BokehRange;
  }
}

/** Outlines of the band around a line: one for each stretch of known values. */
export function bandsOf({ at, value, stderr }: TrendLine): {
  at: number[][];
  value: number[][];
} {
  const bands: { at: number[][]; value: number[][] } = { at: [], value: [] };
  const isKnown = (k: number) =>
    Number.isFinite((value[k] ?? NaN) + (stderr[k] ?? NaN));
  const edge = (k: number, sign: 1 | -1) =>
    (value[k] as number) + sign * (stderr[k] as number);
  for (let from = 0; from < at.length; from++) {
    if (!isKnown(from)) continue;
    let to = from;
    while (isKnown(to)) to += 1;
    const there = Array.from({ length: to - from }, (_, k) => from + k);
    const back = [...there].reverse();
    bands.at.push([...there, ...back].map((k) => at[k] as number));
    bands.value.push([
      ...there.map((k) => edge(k, 1)),
      ...back.map((k) => edge(k, -1)),
    ]);
    from = to;
  }
  return bands;
}

/** Size of a trend's dots: none where they are so close that they would hide the line. */
export function dotSize(pixelsApart: number): number {
  return pixelsApart < 5 ? 0 : 4;
}

function axisColors(theme: Theme): Attributes {
  return {
    major_label_text_color: theme.text,
    major_label_text_font: theme.font,
    major_tick_line_color: theme.frame,
    axis_line_color: theme.frame,
  };
}

/** BokehJS outlines what was dragged on; only the grid's own focus counts. */
function withoutOutline(view: object): void {
  const { canvas_view } = view as { canvas_view?: { events_el?: HTMLElement } };
  canvas_view?.events_el?.style.setProperty("outline", "none");
}

function withoutLines(grid: BokehModel): void {
  grid.setv({ grid_line_color: null });
}
