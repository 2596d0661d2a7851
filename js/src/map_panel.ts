/** The map with its trends beside it: draws what the session knows, with `charts.ts`. */

import { blockLevels } from "./blocks.ts";
import type { Bokeh } from "./bokehjs.ts";
import { Captions } from "./captions.ts";
import { CellGrid } from "./cell_grid.ts";
import { Charts, type FigureName, type Surface } from "./charts.ts";
import { cellText, copyText } from "./copying.ts";
import { Details } from "./details.ts";
import { h, painted, setText } from "./dom.ts";
import { commonPrefix, MAX_CHARACTERS, shortLabel, usualPrefix } from "./labels.ts";
import { fittingLimit, geometryFor, isWide, labelRoom, widest } from "./layout.ts";
import { MapTools } from "./map_tools.ts";
import {
  type Cell,
  cellOf,
  imageOf,
  limits,
  type MapView,
  mapView,
  matchCells,
  type Options,
  pairOf,
  pendingBoxes,
  undefinedBoxes,
} from "./map_view.ts";
import { Margins } from "./margins.ts";
import { isMasked } from "./matrix.ts";
import { numbersFor } from "./numbers.ts";
import type { FigureJson, Palettes } from "./protocol.ts";
import type { Change, Session } from "./session.ts";
import { Sketch } from "./sketch.ts";
import { MapTable } from "./table.ts";
import { GREYS, type Theme, themeOf } from "./theme.ts";
import { drawLines, trendRange } from "./trend_lines.ts";
import { buttonWord, pendingWords, shownName, spoken, valueAt } from "./words.ts";

const LABEL_FONT_PX = 11;

export class MapPanel {
  readonly element: HTMLElement;
  private readonly session: Session;
  private readonly root: HTMLElement;
  private readonly tools: MapTools;
  private readonly grid: CellGrid;
  private readonly table: MapTable;
  private readonly details: Details;
  private readonly captions: Captions;
  private readonly slots: Record<FigureName, HTMLElement>;
  private readonly waiting = h("p", { class: "cka-waiting", role: "status" });
  private readonly missing = h("p", { class: "cka-missing", role: "status" });
  private readonly over = h("p", { class: "cka-over" });
  private readonly palettes: Palettes;
  private readonly sketch: Sketch;
  private readonly margins = new Margins();
  private readonly stage: HTMLElement;
  private readonly options: Options = {
    order: "execution",
    mask: "none",
    transpose: false,
  };
  private charts: Charts | null = null;
  private theme: Theme;
  private view: MapView | null = null;
  private hover: Cell | null = null;
  private numbers = false;
  private matches = false;
  private width = 0;
  private labelled = "";
  private characters = MAX_CHARACTERS;

  constructor(session: Session, root: HTMLElement, palettes: Palettes) {
    this.session = session;
    this.root = root;
    this.palettes = palettes;
    this.theme = themeOf(root);
    this.tools = new MapTools({
      palette: (name) => session.setPalette(name),
      range: (range) => session.setColorRange(range),
      options: (options) => this.setOptions(options),
      numbers: (shown) => {
        this.numbers = shown;
        this.drawNumbers();
        this.drawMatches();
      },
      matches: (shown) => {
        this.matches = shown;
        this.drawMatches();
      },
      table: (shown) => this.table.setOpen(shown),
      resetZoom: () => this.charts?.resetZoom(),
    });
    this.table = new MapTable(session);
    this.grid = new CellGrid({
      say: (cell) => (this.view ? spoken(session, this.view, cell) : ""),
      moved: (cell) => this.hovered(cell),
      chosen: (cell, pin) => this.tapped(cell, pin),
      cleared: () => session.look(null),
      copied: (cell) => {
        if (this.view) void copyText(cellText(session, this.view, cell));
      },
    });
    this.sketch = new Sketch(this.handlers);
    this.slots = {
      map: h("div", { class: "cka-slot cka-map" }),
      row_trend: h("div", { class: "cka-slot cka-row-trend" }),
      column_trend: h("div", { class: "cka-slot cka-column-trend" }),
      history: h("div", { class: "cka-slot cka-history" }),
    };
    this.details = new Details(session, this.slots.history);
    this.captions = new Captions(session);
    this.stage = h(
      "div",
      { class: "cka-stage" },
      h(
        "div",
        { class: "cka-above" },
        this.captions.row,
        this.tools.zoom,
        this.slots.row_trend,
        this.waiting,
      ),
      this.captions.corner,
      h(
        "div",
        { class: "cka-map-holder" },
        this.slots.map,
        this.sketch.element,
        this.margins.element,
        this.over,
        this.grid.element,
      ),
      this.slots.column_trend,
    );
    this.element = h(
      "section",
      { class: "cka-chart", "aria-label": "Map" },
      this.tools.element,
      this.missing,
      this.stage,
      this.captions.readout,
      this.table.element,
      this.details.element,
    );
    setText(this.waiting, "Preparing the plots\u2026");
    this.stage.classList.add("cka-not-yet");
    this.sketch.setTheme(this.theme);
    this.drawAll();
  }

  /** Embeds the figures; until they are painted the sketch stands in their place. */
  async start(bokeh: Bokeh, figures: FigureJson): Promise<void> {
    this.charts = await Charts.embed(bokeh, figures, this.slots, this.handlers);
    this.charts.setTheme(this.theme);
    this.labelled = "";
    this.drawAll();
    this.layOut();
    this.stage.classList.remove("cka-not-yet");
    await painted();
    this.waiting.hidden = true;
    this.sketch.destroy();
  }

  /** Without BokehJS the sketch stays: values, clicks and words are as usable as ever. */
  fail(text: string): void {
    setText(this.waiting, text);
    this.element.classList.add("cka-plain");
  }

  destroy(): void {
    this.table.destroy();
    this.sketch.destroy();
    this.charts?.destroy();
    this.charts = null;
  }

  private get surface(): Surface {
    return this.charts ?? this.sketch;
  }

  private readonly handlers = {
    tap: (cell: Cell, shift: boolean) => {
      this.grid.setCursor(cell, true);
      this.tapped(cell, shift);
    },
    hover: (cell: Cell | null) => this.hovered(cell),
    zoomed: () => this.zoomed(),
  };

  update(change: Change): void {
    if (change === "focus" || change === "pins") this.drawFocus();
    else if (change === "colors") this.drawColors();
    else if (change === "frame" || change === "layers" || change === "trees") {
      if (change === "frame" && this.session.shown?.frame.final) {
        this.options.clustered = undefined;
      }
      this.drawAll();
    }
  }

  themeChanged(): void {
    this.theme = themeOf(this.root);
    this.surface.setTheme(this.theme);
    this.labelled = "";
    this.drawAll();
  }

  resize(width: number): void {
    if (Math.abs(width - this.width) < 1 || width < 1) return;
    this.width = Math.floor(width);
    this.layOut();
  }

  private setOptions(options: Partial<Options>): void {
    Object.assign(this.options, options, { clustered: undefined });
    this.hover = null;
    this.drawAll();
  }

  private drawAll(): void {
    this.view = mapView(this.session, this.options);
    const { view, surface } = this;
    if (this.options.order === "clustered") {
      const { rows, columns } = view;
      this.options.clustered = rows.side === 1 ? [rows, columns] : [columns, rows];
    }
    this.drawMissing();
    const holes = undefinedBoxes(view, this.options.mask);
    const pending = pendingBoxes(view, this.options.mask);
    surface.setHoles("undefined", holes);
    surface.setHoles("pending", pending);
    const negative = view.values.values.some((number) => number < 0);
    this.tools.setKeys(negative, holes.left.length > 0, pending.left.length > 0);
    this.drawColors();
    this.drawLabels();
    this.drawFocus();
    this.grid.setSize(view.values.rows, view.values.cols, this.summary(view));
  }

  private drawMissing(): void {
    const { session } = this;
    this.over.hidden = session.shown !== null;
    const isRunning = session.status === "running";
    setText(this.over, isRunning ? "First batch\u2026" : pendingWords(session));
    const empty = session.layers.findIndex((layers) => layers.length === 0);
    const some = session.status === "running" ? 0 : session.missing;
    this.missing.hidden = empty < 0 && some === 0;
    if (empty >= 0) {
      const name = session.meta.names[empty];
      setText(this.missing, `No layer of ${name} is chosen: check some in its tree.`);
    } else if (some > 0) {
      const what = some === 1 ? "1 chosen layer is" : `${some} chosen layers are`;
      const rest = !session.canRun
        ? "not in this saved map."
        : `not computed yet: ${buttonWord(session)} fills the map.`;
      setText(this.missing, `${what} ${rest}`);
    }
  }

  private summary(view: MapView): string {
    const [first, second] = this.session.meta.names;
    const { rows, cols } = view.values;
    const names = view.rows.side === 1 ? [first, second] : [second, first];
    const batch = view.shown?.frame.batch ?? 0;
    return (
      `CKA of ${rows} layers of ${names[0]} by ${cols} layers of ${names[1]} ` +
      `after ${batch} batches. Arrow keys move, Enter shows the trends of a cell.`
    );
  }

  private drawLabels(): void {
    const { view } = this;
    if (!view) return;
    const axes = [view.rows, view.columns].map(({ side, names, branches }) => {
      return [side, names, branches];
    });
    const key = JSON.stringify([axes, this.session.meta.names]);
    if (key === this.labelled) return;
    this.labelled = key;
    this.layOut();
  }

  private labelsOf(which: "rows" | "columns"): { names: string[]; title: string } {
    const axis = this.view?.[which];
    if (!axis) return { names: [], title: "" };
    const prefix = commonPrefix(axis.names);
    const shown = axis.names.map((name) => shownName(this.session, axis.side, name));
    const own = shown.map((name) => name.slice(prefix.length));
    const usual = usualPrefix(own);
    const names = own.map((name) => shortLabel(name, usual, this.characters));
    const model = this.session.meta.names[axis.side - 1] ?? "";
    return { names, title: prefix ? `${model} \u00b7 ${prefix}\u2026` : model };
  }

  private layOut(): void {
    const { view, width } = this;
    if (width < 1) return;
    const pixels = (which: "rows" | "columns", limit: number) => {
      this.characters = limit;
      return widest(this.labelsOf(which).names, font);
    };
    const font = `${LABEL_FONT_PX}px ${this.theme.font}`;
    const rowPixels = (limit: number) => pixels("rows", limit);
    const limit = fittingLimit(rowPixels, labelRoom(width), MAX_CHARACTERS);
    const geometry = geometryFor(width, {
      rows: view?.values.rows ?? 1,
      cols: view?.values.cols ?? 1,
      rowLabel: rowPixels(limit),
      columnLabel: pixels("columns", limit),
      rowBlocks: blockLevels(view?.rows.names ?? []).length > 0,
      columnBlocks: blockLevels(view?.columns.names ?? []).length > 0,
      rowTree: (view?.rows.branches ?? []).length > 0,
      columnTree: (view?.columns.branches ?? []).length > 0,
    });
    const [rows, columns] = [this.labelsOf("rows"), this.labelsOf("columns")];
    this.surface.setLabels(rows.names, columns.names);
    this.details.element.classList.toggle("cka-beside", isWide(width));
    for (const side of ["left", "right", "top", "bottom", "aside"] as const) {
      this.stage.style.setProperty(`--${side}`, `${geometry[side]}px`);
    }
    this.stage.style.setProperty("--frame-height", `${geometry.height}px`);
    this.surface.setGeometry(geometry);
    if (view) {
      const axes = {
        rows: { ...view.rows, title: rows.title },
        columns: { ...view.columns, title: columns.title },
      };
      this.margins.set(axes, geometry, this.theme.font);
    }
    this.drawMargins();
  }

  private drawMargins(): void {
    const { rows = 1, cols = 1 } = this.view?.values ?? {};
    this.margins.draw(this.charts?.span ?? { rows: [0, rows], cols: [0, cols] });
  }

  private drawColors(): void {
    const { surface, session, view } = this;
    const [low, high] = limits(view, session.colorRange);
    this.tools.setRange(session.colorRange, [low, high]);
    this.tools.setMetric(session.metric);
    surface.setColors(this.palette, low, high);
    this.charts?.setTrendRange(...trendRange(view, [low, high]));
    this.tools.setPalette(session.palette, this.palette);
    const { rows = 0, cols = 0 } = view?.values ?? {};
    if (view && rows > 0 && cols > 0) {
      surface.setImage(imageOf(view, this.options.mask, low), rows, cols);
    } else surface.setImage(Float32Array.of(Number.NaN), 1, 1);
    this.drawNumbers();
    this.drawMatches();
  }

  private get palette(): readonly string[] {
    return this.palettes[this.session.palette] ?? GREYS;
  }

  private drawNumbers(): void {
    const { charts, view } = this;
    if (!charts) return;
    charts.setNumbers(
      numbersFor(this.numbers ? view : null, {
        cell: charts.cellPixels,
        window: charts.window,
        mask: this.options.mask,
        limits: limits(view, this.session.colorRange),
        palette: this.palette,
      }),
    );
  }

  private drawMatches(): void {
    const { charts, view, session } = this;
    const cells =
      this.matches && view
        ? matchCells(view, this.options.mask, session.meta.self)
        : { ofRows: [], ofColumns: [] };
    charts?.setMatches(cells, this.numbers);
  }

  private zoomed(): void {
    this.drawMargins();
    this.tools.setZoomed(this.charts?.isZoomed ?? false);
    this.drawNumbers();
  }

  private tapped(cell: Cell, pin: boolean): void {
    const { view } = this;
    if (!view || isMasked(this.options.mask, cell.row, cell.col)) return;
    if (pin) this.session.pin(pairOf(view, cell));
    else this.session.look(pairOf(view, cell));
  }

  private hovered(cell: Cell | null): void {
    const known = this.view && cell && this.view.values.values.length > 0 ? cell : null;
    if (known?.row === this.hover?.row && known?.col === this.hover?.col) return;
    this.hover = known;
    this.surface.setMarker("hover", known ? [known] : []);
    this.drawReadout();
    if (!this.focusCell) this.drawTrends();
  }

  private get focusCell(): Cell | null {
    const { focus } = this.session;
    return this.view && focus ? cellOf(this.view, focus) : null;
  }

  private drawFocus(): void {
    const { surface, view, session } = this;
    if (!view) return;
    const cell = this.focusCell;
    surface.setMarker("focus", cell ? [cell] : []);
    surface.setMarker(
      "pins",
      session.pins.flatMap((pair) => cellOf(view, pair) ?? []),
    );
    if (cell) this.grid.setCursor(cell, false);
    this.drawTrends();
    this.drawReadout();
    this.details.draw(view, cell);
    this.table.draw(view, cell);
  }

  /** With no cell in focus the one pointed at shows its trends. */
  private drawTrends(): void {
    const { charts, view, session, focusCell } = this;
    if (!view) return;
    const trends = focusCell ?? this.hover;
    if (charts)
      drawLines(charts, session, view, this.theme, { trends, history: focusCell });
    this.captions.drawTrends(view, trends, focusCell !== null);
  }

  private drawReadout(): void {
    const cell = this.hover ?? this.focusCell;
    this.tools.point(this.view && cell ? valueAt(this.view, cell) : null);
    this.captions.drawReadout(this.view, cell);
  }
}
