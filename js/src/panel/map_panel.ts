/** The map with its trends beside it: draws what the session knows, with `charts.ts`. */

import type { Bokeh } from "../drawing/bokehjs.ts";
import { Charts, type FigureName } from "../drawing/charts.ts";
import { isWide } from "../drawing/layout.ts";
import { Margins } from "../drawing/margins.ts";
import { type PictureKind, savePicture } from "../drawing/picture.ts";
import { type Plan, planFor } from "../drawing/plan.ts";
import { Sketch } from "../drawing/sketch.ts";
import type { Surface, Viewport } from "../drawing/surface.ts";
import { drawLines, trendRange } from "../drawing/trend_lines.ts";
import { cellText, copyText, metricName, pairsText } from "../map/copying.ts";
import {
  type MarkKind,
  type Marks,
  markedCells,
  marksOf,
  meanAt,
} from "../map/marks.ts";
import { type Numbers, numbersFor } from "../map/numbers.ts";
import {
  type Cell,
  cellOf,
  exactBoxes,
  hasNegative,
  imageOf,
  limits,
  type MapView,
  mapView,
  type Options,
  pairOf,
  pendingBoxes,
  undefinedBoxes,
} from "../map/view.ts";
import {
  missingWords,
  pendingWords,
  spoken,
  summaryWords,
  valueAt,
} from "../map/words.ts";
import type { FigureJson, Palettes } from "../protocol.ts";
import { type Change, type Session, wordsOf } from "../state/session.ts";
import { h, painted, setText } from "../ui/dom.ts";
import { GREYS, type Theme, themeOf } from "../ui/theme.ts";
import { Captions } from "./captions.ts";
import { CellGrid } from "./cell_grid.ts";
import { Details } from "./details.ts";
import { type KeyName, MapTools, THRESHOLD, type ToolHandlers } from "./map_tools.ts";
import { MapTable } from "./table.ts";

export class MapPanel {
  readonly element: HTMLElement;
  private readonly session: Session;
  private readonly root: HTMLElement;
  private readonly tools: MapTools;
  private readonly grid: CellGrid;
  private readonly table: MapTable;
  private readonly details: Details;
  private readonly captions: Captions;
  private readonly slots = makeSlots();
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
    threshold: THRESHOLD,
    transpose: false,
    flip: false,
  };
  private charts: Charts | null = null;
  private theme: Theme;
  private view: MapView;
  private plan: Plan | null = null;
  private marks: Marks = { ofRows: [], ofColumns: [], path: [] };
  private hover: Cell | null = null;
  private hasNumbers = false;
  private isWritten = false;
  private markKind: MarkKind = "none";
  private width = 0;
  private labelled = "";

  constructor(session: Session, root: HTMLElement, palettes: Palettes) {
    this.session = session;
    this.root = root;
    this.palettes = palettes;
    this.theme = themeOf(root);
    this.view = mapView(session, this.options);
    this.tools = new MapTools(this.toolHandlers);
    this.table = new MapTable(session);
    this.grid = this.makeGrid();
    this.sketch = new Sketch(this.handlers);
    this.details = new Details(session, this.slots.history);
    this.captions = new Captions(session, (kind) => void this.save(kind));
    this.stage = this.makeStage();
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

  private readonly toolHandlers: ToolHandlers = {
    palette: (name) => this.session.setPalette(name),
    range: (range) => this.session.setColorRange(range),
    options: (options) => this.setOptions(options),
    numbers: (shown) => {
      this.hasNumbers = shown;
      this.drawNumbers();
    },
    marks: (kind) => {
      this.markKind = kind;
      this.drawMarks();
    },
    pairs: () => pairsText(this.session, this.view, markedCells(this.marks)),
    table: (shown) => this.table.setOpen(shown),
    resetZoom: () => this.charts?.resetZoom(),
  };

  private makeGrid(): CellGrid {
    const { session } = this;
    return new CellGrid({
      say: (cell) => spoken(session, this.view, cell),
      moved: (cell) => this.hovered(cell),
      chosen: (cell, pin) => this.tapped(cell, pin),
      cleared: () => session.look(null),
      copied: (cell) => void copyText(cellText(session, this.view, cell)),
    });
  }

  private makeStage(): HTMLElement {
    const { captions, tools, slots } = this;
    const above = [captions.row, tools.zoom, slots.row_trend, this.waiting];
    return h(
      "div",
      { class: "cka-stage" },
      h("div", { class: "cka-above" }, ...above),
      captions.corner,
      h(
        "div",
        { class: "cka-map-holder" },
        slots.map,
        this.sketch.element,
        this.margins.element,
        this.over,
        this.grid.element,
      ),
      slots.column_trend,
    );
  }

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
    this.labelled = "";
    this.drawAll();
  }

  private drawAll(): void {
    this.view = mapView(this.session, this.options);
    const { view, surface } = this;
    if (this.options.order === "clustered") this.options.clustered = view.clustered;
    this.drawMissing();
    const boxes = {
      undefined: undefinedBoxes(view),
      pending: pendingBoxes(view),
      exact: exactBoxes(view),
    };
    const isShown: Partial<Record<KeyName, boolean>> = {
      below: hasNegative(view, this.limits[0]),
    };
    for (const kind of ["undefined", "pending", "exact"] as const) {
      surface.setBoxes(kind, boxes[kind]);
      isShown[kind] = boxes[kind].left.length > 0;
    }
    this.tools.setKeys(isShown);
    this.drawColors();
    this.drawLabels();
    this.drawFocus();
    const { rows, cols } = view.values;
    this.grid.setSize(rows, cols, summaryWords(this.session, view));
  }

  private drawMissing(): void {
    const { session } = this;
    this.over.hidden = session.shown !== null;
    const isRunning = session.status === "running";
    setText(this.over, isRunning ? "First batch\u2026" : pendingWords(session));
    const words = missingWords(session);
    this.missing.hidden = words === "";
    setText(this.missing, words);
  }

  private drawLabels(): void {
    const { rows, columns } = this.view;
    const axes = [rows, columns].map(({ side, names, branches }) => {
      return [side, names, branches];
    });
    const key = JSON.stringify([axes, this.session.meta.names]);
    if (key === this.labelled) return;
    this.labelled = key;
    this.layOut();
  }

  private layOut(): void {
    const { view, width, session, surface } = this;
    if (width < 1) return;
    const family = this.theme.font;
    this.plan = planFor(session, view, this.options, { width, family });
    const { rows, columns, geometry } = this.plan;
    surface.setTicks(rows.ticks, columns.ticks);
    this.details.element.classList.toggle("cka-beside", isWide(width));
    for (const side of ["left", "right", "top", "bottom", "aside"] as const) {
      this.stage.style.setProperty(`--${side}`, `${geometry[side]}px`);
    }
    this.stage.style.setProperty("--frame-height", `${geometry.height}px`);
    surface.setGeometry(geometry);
    this.margins.set(this.plan, family);
    this.drawMargins();
  }

  /** What of the map is in sight. */
  private get viewport(): Viewport {
    const { rows, cols } = this.view.values;
    return this.charts?.span ?? { rows: [0, rows], cols: [0, cols] };
  }

  private drawMargins(): void {
    this.margins.draw(this.viewport);
  }

  private drawColors(): void {
    const { surface, session, view } = this;
    const [low, high] = this.limits;
    this.tools.setRange(session.colorRange, [low, high]);
    this.tools.setMetric(metricName(session));
    surface.setColors(this.palette, low, high);
    this.charts?.setTrendRange(...trendRange(view, [low, high]));
    this.tools.setPalette(session.palette, this.palette);
    const { rows, cols } = view.values;
    if (rows > 0 && cols > 0) surface.setImage(imageOf(view, low), rows, cols);
    else surface.setImage(Float32Array.of(Number.NaN), 1, 1);
    this.drawNumbers();
    this.drawMarks();
  }

  private get limits(): [number, number] {
    return limits(this.view, this.session.colorRange, this.session.palette);
  }

  private get palette(): readonly string[] {
    return this.palettes[this.session.palette] ?? GREYS;
  }

  private numbers(charts: Charts): Numbers {
    return numbersFor(this.hasNumbers ? this.view : null, {
      cell: charts.cellPixels,
      window: charts.window,
      limits: this.limits,
      palette: this.palette,
    });
  }

  /** Marks make room for numbers where these are written, which a zoom may change. */
  private drawNumbers(): void {
    const { charts, isWritten } = this;
    if (!charts) return;
    const numbers = this.numbers(charts);
    charts.setNumbers(numbers);
    this.isWritten = numbers.text.length > 0;
    if (this.isWritten !== isWritten) charts.setMarks(this.marks, this.isWritten);
  }

  private drawMarks(): void {
    const { view, markKind, session, options } = this;
    this.marks = marksOf(view, markKind, {
      isSelf: session.meta.self,
      isInOrder: options.order === "execution" || options.order === "depth",
    });
    this.tools.setMean(meanAt(view, markedCells(this.marks)));
    this.surface.setMarks(this.marks, this.isWritten);
  }

  /** Saves the map as it is now; a picture that cannot be made is said. */
  private async save(kind: PictureKind): Promise<void> {
    const { view, plan, viewport, margins, marks, session, theme, charts } = this;
    if (!plan) return;
    const drawn = {
      ...{ view, plan, viewport, marks, margins: margins.element, font: theme.font },
      colors: {
        ...{ palette: this.palette, limits: this.limits },
        ...{ below: theme.below, exact: theme.exact },
      },
      numbers: charts ? this.numbers(charts) : { x: [], y: [], text: [], color: [] },
      metric: metricName(session),
    };
    try {
      await savePicture(drawn, session.meta.names.join("-"), kind);
    } catch (error) {
      session.fail(wordsOf(error));
    }
  }

  private zoomed(): void {
    this.drawMargins();
    this.tools.setZoomed(this.charts?.isZoomed ?? false);
    this.drawNumbers();
  }

  private tapped(cell: Cell, pin: boolean): void {
    const { view } = this;
    if (view.hides(cell.row, cell.col)) return;
    if (pin) this.session.pin(pairOf(view, cell));
    else this.session.look(pairOf(view, cell));
  }

  private hovered(cell: Cell | null): void {
    const known = this.view.values.values.length > 0 ? cell : null;
    if (known?.row === this.hover?.row && known?.col === this.hover?.col) return;
    this.hover = known;
    this.surface.setMarker("hover", known ? [known] : []);
    this.drawReadout();
    if (!this.focusCell) this.drawTrends();
  }

  private get focusCell(): Cell | null {
    const { focus } = this.session;
    return focus ? cellOf(this.view, focus) : null;
  }

  private drawFocus(): void {
    const { surface, view, session } = this;
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
    const trends = focusCell ?? this.hover;
    if (charts)
      drawLines(charts, session, view, this.theme, { trends, history: focusCell });
    this.captions.drawTrends(view, trends, focusCell !== null);
  }

  private drawReadout(): void {
    const cell = this.hover ?? this.focusCell;
    this.tools.point(cell ? valueAt(this.view, cell) : null);
    this.captions.drawReadout(this.view, cell);
  }
}

function makeSlots(): Record<FigureName, HTMLElement> {
  const slot = (name: string) => h("div", { class: `cka-slot cka-${name}` });
  return {
    map: slot("map"),
    row_trend: slot("row-trend"),
    column_trend: slot("column-trend"),
    history: slot("history"),
  };
}
