/** The map with its trends: draws the session on the charts, or on the sketch before them. */
import type { Bokeh } from "../drawing/bokehjs.ts";
import { Charts } from "../drawing/charts.ts";
import { isWide } from "../drawing/layout.ts";
import { Margins } from "../drawing/margins.ts";
import { type Drawn, type PictureKind, savePicture } from "../drawing/picture.ts";
import { type Plan, planFor } from "../drawing/plan.ts";
import { Sketch } from "../drawing/sketch.ts";
import type { Surface, Viewport } from "../drawing/surface.ts";
import { drawLines, trendRange } from "../drawing/trend_lines.ts";
import { cellText, copyText, metricName, pairsText } from "../map/copying.ts";
import { type BoxKind, type MapImage, mapImage } from "../map/image.ts";
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
  type MapView,
  mapView,
  type Options,
  pairOf,
} from "../map/view.ts";
import { pendingReason, spoken, summaryWords, valueAt } from "../map/words.ts";
import type { FigureJson, Palettes } from "../protocol.ts";
import type { Change } from "../state/changes.ts";
import type { Session } from "../state/session.ts";
import { h, painted } from "../ui/dom.ts";
import { errorText } from "../ui/format.ts";
import type { Press } from "../ui/press.ts";
import { GREYS, type Theme, themeOf } from "../ui/theme.ts";
import { Captions } from "./captions.ts";
import { CellGrid } from "./cell_grid.ts";
import { Details } from "./details.ts";
import { MapTools, THRESHOLD, type ToolHandlers } from "./map_tools.ts";
import { Missing } from "./missing.ts";
import { Stage } from "./stage.ts";
import { MapTable } from "./table.ts";

/** Changes after which the whole map is drawn again. */
const REDRAWN: ReadonlySet<Change> = new Set(["frame", "layers", "trees", "status"]);
const BOX_KINDS: readonly BoxKind[] = ["undefined", "pending", "exact"];

export class MapPanel {
  readonly element: HTMLElement;
  private readonly session: Session;
  private readonly root: HTMLElement;
  private readonly tools: MapTools;
  private readonly grid: CellGrid;
  private readonly table: MapTable;
  private readonly details: Details;
  private readonly captions: Captions;
  private readonly missing: Missing;
  private readonly palettes: Palettes;
  private readonly sketch: Sketch;
  private readonly margins = new Margins();
  private readonly stage: Stage;
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
  private image: MapImage;
  private plan: Plan | null = null;
  private marks: Marks = { ofRows: [], ofColumns: [], path: [] };
  private hover: Cell | null = null;
  private hasNumbers = false;
  private numbersAreShown = false;
  private markKind: MarkKind = "none";
  private width = 0;
  private labelKey = "";

  constructor(session: Session, root: HTMLElement, palettes: Palettes) {
    this.session = session;
    this.root = root;
    this.palettes = palettes;
    this.theme = themeOf(root);
    this.view = this.makeView();
    this.image = this.makeImage();
    this.missing = new Missing(session);
    this.tools = new MapTools(this.toolHandlers);
    this.table = new MapTable(session.comparison, (pair) => session.focus.set(pair));
    this.grid = this.makeGrid();
    this.sketch = new Sketch(this.handlers);
    this.captions = new Captions(session.comparison, session.choice, {
      clear: () => session.focus.set(null),
      save: (kind) => void this.save(kind),
    });
    this.stage = new Stage({
      rowCaption: this.captions.row,
      corner: this.captions.corner,
      zoom: this.tools.zoom,
      sketch: this.sketch.element,
      margins: this.margins.element,
      grid: this.grid.element,
    });
    const { history } = this.stage.slots;
    this.details = new Details(session.comparison, session.pins, history);
    this.element = h(
      "section",
      { class: "cka-chart", "aria-label": "Map" },
      this.tools.element,
      this.missing.element,
      this.stage.element,
      this.captions.readout,
      this.table.element,
      this.details.element,
    );
    this.sketch.setTheme(this.theme);
    this.drawAll();
  }

  /** Embeds the figures; the sketch takes their place until a click on it has ended. */
  async start(bokeh: Bokeh, figures: FigureJson, press: Press): Promise<void> {
    const { stage } = this;
    const charts = await Charts.embed(bokeh, figures, stage.slots, this.handlers);
    await press.up();
    this.charts = charts;
    this.charts.setTheme(this.theme);
    this.labelKey = "";
    this.drawAll();
    this.layOut();
    stage.showCharts();
    await painted();
    await press.up();
    this.element.classList.remove("cka-plain");
    stage.setWaiting("");
    this.sketch.destroy();
  }

  /** Without BokehJS the sketch stays; values, clicks and words still work. */
  fail(text: string): void {
    this.charts?.destroy();
    this.charts = null;
    this.stage.hideCharts(text);
    this.element.classList.add("cka-plain");
    this.themeChanged();
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
    palette: (name) => this.session.palette.set(name),
    range: (range) => this.session.colorRange.set(range),
    options: (options) => this.setOptions(options),
    numbers: (shown) => {
      this.hasNumbers = shown;
      this.drawNumbers();
    },
    marks: (kind) => {
      this.markKind = kind;
      this.drawMarks();
    },
    pairs: () => pairsText(this.session.comparison, this.view, markedCells(this.marks)),
    table: (shown) => this.table.setOpen(shown),
    resetZoom: () => this.charts?.resetZoom(),
  };

  private makeGrid(): CellGrid {
    const { comparison, focus } = this.session;
    return new CellGrid({
      say: (cell) => spoken(comparison, this.view, cell),
      moved: (cell) => this.hovered(cell),
      chosen: (cell, pin) => this.tapped(cell, pin),
      cleared: () => focus.set(null),
      copied: (cell) => void copyText(cellText(comparison, this.view, cell)),
    });
  }

  update(change: Change): void {
    if (change === "focus" || change === "pins") this.drawFocus();
    else if (change === "colors") this.drawColors();
    else if (REDRAWN.has(change)) {
      if (change === "frame" && this.session.frames.shown?.frame.final) {
        this.options.clustered = undefined;
      }
      this.drawAll();
    }
  }

  themeChanged(): void {
    this.theme = themeOf(this.root);
    this.surface.setTheme(this.theme);
    this.labelKey = "";
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
    this.labelKey = "";
    this.drawAll();
  }

  private makeView(): MapView {
    const { frames, choice, comparison, run } = this.session;
    const source = {
      shown: frames.shown,
      layers: choice.layers,
      isDifference: comparison.isDifference,
      pendingReason: pendingReason(run),
    };
    return mapView(source, this.options);
  }

  private makeImage(): MapImage {
    const { colorRange, palette } = this.session;
    return mapImage(this.view, colorRange.value, palette.value);
  }

  private drawAll(): void {
    this.view = this.makeView();
    const { view } = this;
    if (this.options.order === "clustered") this.options.clustered = view.clustered;
    this.drawMissing();
    this.drawColors();
    this.drawLabels();
    this.drawFocus();
    const { rows, cols } = view.values;
    const summary = summaryWords(this.session.comparison.names, view);
    this.grid.setSize(rows, cols, summary);
  }

  private drawMissing(): void {
    const { run, frames } = this.session;
    const isRunning = run.status === "running";
    const waiting = isRunning ? "First batch\u2026" : this.view.pendingReason;
    this.stage.setOver(frames.shown ? null : waiting);
    this.missing.draw();
  }

  private drawLabels(): void {
    const { rows, columns } = this.view;
    const axes = [rows, columns].map(({ side, names, branches }) => {
      return [side, names, branches];
    });
    const key = JSON.stringify(axes);
    if (key === this.labelKey) return;
    this.layOut();
    this.labelKey = key;
  }

  private layOut(): void {
    const { view, width, session, surface } = this;
    if (width < 1) return;
    const family = this.theme.font;
    this.plan = planFor(session.comparison, view, this.options, { width, family });
    const { rows, columns, geometry } = this.plan;
    surface.setTicks(rows.ticks, columns.ticks);
    this.details.element.classList.toggle("cka-beside", isWide(width));
    this.stage.setGeometry(geometry);
    surface.setGeometry(geometry);
    this.margins.set(this.plan, family);
    this.margins.draw(this.viewport);
  }

  /** The part of the map that is visible. */
  private get viewport(): Viewport {
    const { rows, cols } = this.view.values;
    return this.charts?.viewport ?? { rows: [0, rows], cols: [0, cols] };
  }

  /** Draws the cells; their image is computed here, once a frame. */
  private drawColors(): void {
    this.image = this.makeImage();
    const { surface, view, image, palette } = this;
    const [low, high] = image.limits;
    surface.setColors(palette, low, high);
    for (const kind of BOX_KINDS) surface.setBoxes(kind, image.boxes[kind]);
    const { rows, cols } = view.values;
    if (rows > 0 && cols > 0) surface.setImage(image.values, rows, cols);
    else surface.setImage(Float32Array.of(Number.NaN), 1, 1);
    this.charts?.setTrendRange(...trendRange(view, image.limits));
    this.drawColorBar();
    this.drawNumbers();
    this.drawMarks();
  }

  private drawColorBar(): void {
    const { tools, session, image, view } = this;
    tools.setPending(view.pendingReason);
    tools.setRange(session.colorRange.value, image.limits);
    tools.setMetric(metricName(session.comparison.metric));
    tools.setPalette(session.palette.value, this.palette);
    const isShown = (kind: BoxKind) => image.boxes[kind].left.length > 0;
    tools.setKeys({
      below: image.hasNegative,
      exact: isShown("exact"),
      undefined: isShown("undefined"),
      pending: isShown("pending"),
    });
  }

  private get palette(): readonly string[] {
    return this.palettes[this.session.palette.value] ?? GREYS;
  }

  private numbers(charts: Charts): Numbers {
    return numbersFor(this.hasNumbers ? this.view : null, {
      cell: charts.cellPixels,
      visible: charts.visibleCells,
      limits: this.image.limits,
      palette: this.palette,
    });
  }

  /** Marks make room for numbers, which a zoom may add or remove. */
  private drawNumbers(): void {
    const { charts, numbersAreShown } = this;
    if (!charts) return;
    const numbers = this.numbers(charts);
    charts.setNumbers(numbers);
    this.numbersAreShown = numbers.text.length > 0;
    if (this.numbersAreShown !== numbersAreShown)
      charts.setMarks(this.marks, this.numbersAreShown);
  }

  private drawMarks(): void {
    const { view, markKind, session, options } = this;
    this.marks = marksOf(view, markKind, {
      isSelf: session.comparison.isSelf,
      isInOrder: options.order === "execution" || options.order === "depth",
    });
    this.tools.setMean(meanAt(view, markedCells(this.marks)));
    this.surface.setMarks(this.marks, this.numbersAreShown);
  }

  /** Saves the map as it is now; a picture that cannot be made is reported. */
  private async save(kind: PictureKind): Promise<void> {
    const { plan, session } = this;
    if (!plan) return;
    try {
      await savePicture(this.drawn(plan), session.comparison.names.join("-"), kind);
    } catch (error) {
      session.messages.error(errorText(error));
    }
  }

  private drawn(plan: Plan): Drawn {
    const { view, image, viewport, marks, theme, charts, palette } = this;
    const noNumbers = { x: [], y: [], text: [], color: [] };
    return {
      ...{ view, image, plan, viewport, marks },
      margins: this.margins.element,
      font: theme.font,
      colors: { palette, below: theme.below, exact: theme.exact },
      numbers: charts ? this.numbers(charts) : noNumbers,
      metric: metricName(this.session.comparison.metric),
    };
  }

  private zoomed(): void {
    this.margins.draw(this.viewport);
    this.tools.setZoomed(this.charts?.isZoomed ?? false);
    this.drawNumbers();
  }

  private tapped(cell: Cell, pin: boolean): void {
    const { view } = this;
    if (view.hides(cell.row, cell.col)) return;
    if (pin) this.session.pins.toggle(pairOf(view, cell));
    else this.session.focus.set(pairOf(view, cell));
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
    const pair = this.session.focus.value;
    return pair && cellOf(this.view, pair);
  }

  private drawFocus(): void {
    const { surface, view, session } = this;
    const cell = this.focusCell;
    surface.setMarker("focus", cell ? [cell] : []);
    surface.setMarker(
      "pins",
      session.pins.pairs.flatMap((pair) => cellOf(view, pair) ?? []),
    );
    if (cell) this.grid.setCursor(cell, false);
    this.drawTrends();
    this.drawReadout();
    this.details.draw(view, cell);
    this.table.draw(view, cell);
  }

  /** With no cell in focus, the trends are those of the cell under the pointer. */
  private drawTrends(): void {
    const { charts, view, theme, focusCell } = this;
    const { pins, frames } = this.session;
    const trends = focusCell ?? this.hover;
    const source = { view, theme, pins, history: frames.history };
    if (charts) drawLines(charts, source, { trends, history: focusCell });
    this.captions.drawTrends(view, trends, focusCell !== null);
  }

  private drawReadout(): void {
    const cell = this.hover ?? this.focusCell;
    this.tools.point(cell ? valueAt(this.view, cell) : null);
    this.captions.drawReadout(this.view, cell);
  }
}
