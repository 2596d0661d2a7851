/**
 * The map on a plain canvas, until BokehJS has loaded: same place, same colors, same
 * axes, read and clicked in the same way.
 */

import { type Box, type BoxKind, NO_BOXES } from "../map/image.ts";
import { HALO, type Marks, strokesOf } from "../map/marks.ts";
import type { Cell } from "../map/view.ts";
import type { TicksOf } from "../matrix/labels.ts";
import { paint, rgbOf } from "../ui/colors.ts";
import { h } from "../ui/dom.ts";
import type { Theme } from "../ui/theme.ts";
import type { Geometry, Surface, SurfaceHandlers } from "./surface.ts";

const FONT_PX = 11;
const TICK = 3;
const LABEL_GAP = 6;
const HATCH_STEP = 8;
const MARKERS = {
  hover: { halo: 3, width: 1, color: "#ffffff" },
  pins: { halo: 4, width: 2, color: "#ffffff" },
  focus: { halo: 5, width: 2.5, color: "#5ce1ff" },
} as const;

type Marker = keyof typeof MARKERS;
type SketchHandlers = Pick<SurfaceHandlers, "tap" | "hover">;

export class Sketch implements Surface {
  readonly element = h("canvas", { class: "cka-sketch", "aria-hidden": "true" });
  private readonly image = document.createElement("canvas");
  private readonly markers: Record<Marker, readonly Cell[]> = {
    hover: [],
    pins: [],
    focus: [],
  };
  private readonly boxes: Record<BoxKind, Box> = {
    undefined: NO_BOXES,
    pending: NO_BOXES,
    exact: NO_BOXES,
  };
  private readonly abort = new AbortController();
  private marks: Marks | null = null;
  private values: Float32Array = Float32Array.of(Number.NaN);
  private size = { rows: 1, cols: 1 };
  private ticks: { rows: TicksOf; columns: TicksOf } | null = null;
  private colors = { palette: [] as readonly string[], low: 0, high: 1 };
  private geometry: Geometry | null = null;
  private theme: Theme | null = null;
  private painted = false;
  private frame = 0;

  constructor(handlers: SketchHandlers) {
    const { signal } = this.abort;
    const at = (event: MouseEvent) => this.cellAt(event);
    const listen = (name: "pointermove" | "click", act: (event: MouseEvent) => void) =>
      this.element.addEventListener(name, act, { signal });
    listen("pointermove", (event) => handlers.hover(at(event)));
    listen("click", (event) => {
      const cell = at(event);
      if (cell) handlers.tap(cell, event.shiftKey);
    });
    const leave = () => handlers.hover(null);
    this.element.addEventListener("pointerleave", leave, { signal });
  }

  destroy(): void {
    this.abort.abort();
    cancelAnimationFrame(this.frame);
    this.element.remove();
  }

  setImage(image: Float32Array, rows: number, cols: number): void {
    this.values = image;
    this.size = { rows, cols };
    this.painted = false;
    this.soon();
  }

  setBoxes(kind: BoxKind, boxes: Box): void {
    this.boxes[kind] = boxes;
    this.soon();
  }

  setMarker(name: Marker, cells: readonly Cell[]): void {
    this.markers[name] = cells;
    this.soon();
  }

  /** In the middle of cells: the sketch has no numbers that they would hide. */
  setMarks(marks: Marks): void {
    this.marks = marks;
    this.soon();
  }

  setTicks(rows: TicksOf, columns: TicksOf): void {
    this.ticks = { rows, columns };
    this.soon();
  }

  setColors(palette: readonly string[], low: number, high: number): void {
    this.colors = { palette, low, high };
    this.painted = false;
    this.soon();
  }

  setGeometry(geometry: Geometry): void {
    this.geometry = geometry;
    this.soon();
  }

  setTheme(theme: Theme): void {
    this.theme = theme;
    this.painted = false;
    this.soon();
  }

  private soon(): void {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  private draw(): void {
    const { geometry, theme } = this;
    const context = this.element.getContext("2d");
    if (!geometry || !theme || !context) return;
    const scale = globalThis.devicePixelRatio || 1;
    const { width, height, top, bottom } = geometry;
    const full = height + top + bottom;
    this.element.width = Math.round(width * scale);
    this.element.height = Math.round(full * scale);
    this.element.style.width = `${width}px`;
    this.element.style.height = `${full}px`;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    this.drawImage(context);
    this.drawBoxes(context, theme);
    this.drawMarks(context);
    this.drawMarkers(context);
    this.drawAxes(context, theme);
  }

  /** The frame of the map, in pixels of the canvas. */
  private get box(): PixelBox {
    const { left = 0, right = 0, top = 0, width = 1, height = 1 } = this.geometry ?? {};
    return {
      x: left,
      y: top,
      width: Math.max(1, width - left - right),
      height,
    };
  }

  private drawImage(context: CanvasRenderingContext2D): void {
    if (!this.painted) this.paintImage();
    const { x, y, width, height } = this.box;
    context.imageSmoothingEnabled = false;
    context.drawImage(this.image, x, y, width, height);
  }

  private paintImage(): void {
    const { rows, cols } = this.size;
    const { palette, low, high } = this.colors;
    this.image.width = cols;
    this.image.height = rows;
    const pixels = new ImageData(cols, rows);
    paint(pixels.data, this.values, {
      palette: palette.map(rgbOf),
      below: rgbOf(this.theme?.below ?? ""),
      limits: [low, high],
    });
    this.image.getContext("2d")?.putImageData(pixels, 0, 0);
    this.painted = true;
  }

  private drawBoxes(context: CanvasRenderingContext2D, theme: Theme): void {
    for (const kind of ["undefined", "pending", "exact"] as const) {
      context.save();
      context.beginPath();
      this.addBoxes(context, this.boxes[kind]);
      if (kind === "exact") {
        context.fillStyle = theme.exact;
        context.fill();
      } else if (this.boxes[kind].left.length > 0) this.hatch(context, theme, kind);
      context.restore();
    }
  }

  /** Adds the boxes' outlines to the path. */
  private addBoxes(context: CanvasRenderingContext2D, boxes: Box): void {
    boxes.left.forEach((left, k) => {
      const [right = 0, top = 0] = [boxes.right[k], boxes.top[k]];
      const height = (boxes.bottom[k] ?? 0) - top;
      context.rect(...this.pixels(left, top, right - left, height));
    });
  }

  /** Fills the path with a hatch as BokehJS draws it. */
  private hatch(
    context: CanvasRenderingContext2D,
    theme: Theme,
    kind: "undefined" | "pending",
  ): void {
    const strength = kind === "pending" ? 0.5 : 1;
    context.fillStyle = context.strokeStyle = theme.muted;
    context.globalAlpha = 0.12 * strength;
    context.fill();
    context.globalAlpha = 0.5 * strength;
    context.clip();
    if (kind === "pending") dots(context, this.box);
    else slashes(context, this.box);
  }

  private drawMarks(context: CanvasRenderingContext2D): void {
    if (!this.marks) return;
    const { x, y, width, height } = this.box;
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    context.lineJoin = "round";
    for (const line of strokesOf(this.marks, (cell) => this.middleOf(cell))) {
      const path = new Path2D(line.d);
      context.fillStyle = line.fill;
      if (line.fill !== "none") context.fill(path);
      context.strokeStyle = line.stroke;
      context.lineWidth = line.width;
      context.stroke(path);
    }
    context.restore();
  }

  private drawMarkers(context: CanvasRenderingContext2D): void {
    for (const name of ["hover", "pins", "focus"] as const) {
      const { halo, width, color } = MARKERS[name];
      for (const { row, col } of this.markers[name]) {
        const cell = this.pixels(col, row, 1, 1);
        context.strokeStyle = HALO;
        context.lineWidth = halo;
        context.strokeRect(...cell);
        context.strokeStyle = color;
        context.lineWidth = width;
        context.strokeRect(...cell);
      }
    }
  }

  private drawAxes(context: CanvasRenderingContext2D, theme: Theme): void {
    const { x, y, width, height } = this.box;
    const { rows, cols } = this.size;
    const foot = y + height;
    context.strokeStyle = theme.frame;
    context.lineWidth = 1;
    context.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
    context.textBaseline = "middle";
    context.font = `${FONT_PX}px ${theme.font}`;
    context.fillStyle = theme.text;
    context.textAlign = "right";
    for (const [at, text] of this.ticks?.rows(0, rows, height).labels ?? []) {
      const level = y + (height * at) / rows;
      context.strokeRect(x - TICK, level, TICK, 0);
      write(context, text, x - LABEL_GAP, level, false);
    }
    for (const [at, text] of this.ticks?.columns(0, cols, width).labels ?? []) {
      const level = x + (width * at) / cols;
      context.strokeRect(level, foot, 0, TICK);
      write(context, text, level, foot + LABEL_GAP, true);
    }
  }

  private middleOf({ row, col }: Cell): readonly [x: number, y: number] {
    const [x, y, width, height] = this.pixels(col, row, 1, 1);
    return [x + width / 2, y + height / 2];
  }

  private pixels(
    col: number,
    row: number,
    cols: number,
    rows: number,
  ): [number, number, number, number] {
    const { x, y, width, height } = this.box;
    const [wide, tall] = [width / this.size.cols, height / this.size.rows];
    return [x + col * wide, y + row * tall, cols * wide, rows * tall];
  }

  private cellAt(event: MouseEvent): Cell | null {
    const { x, y, width, height } = this.box;
    const at = this.element.getBoundingClientRect();
    const { rows, cols } = this.size;
    const col = Math.floor(((event.clientX - at.x - x) * cols) / width);
    const row = Math.floor(((event.clientY - at.y - y) * rows) / height);
    return row >= 0 && col >= 0 && row < rows && col < cols ? { row, col } : null;
  }
}

interface PixelBox {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

function slashes(
  context: CanvasRenderingContext2D,
  { x, y, width, height }: PixelBox,
): void {
  context.lineWidth = 1;
  context.beginPath();
  for (let at = 0; at < width + height; at += HATCH_STEP) {
    context.moveTo(x + at, y);
    context.lineTo(x + at - height, y + height);
  }
  context.stroke();
}

function dots(
  context: CanvasRenderingContext2D,
  { x, y, width, height }: PixelBox,
): void {
  context.beginPath();
  for (let down = HATCH_STEP / 2; down < height; down += HATCH_STEP) {
    for (let at = HATCH_STEP / 2; at < width; at += HATCH_STEP) {
      context.rect(x + at - 1, y + down - 1, 2, 2);
    }
  }
  context.fill();
}

function write(
  context: CanvasRenderingContext2D,
  text: string,
  x: number,
  y: number,
  turned: boolean,
): void {
  context.save();
  context.translate(x, y);
  if (turned) context.rotate(-Math.PI / 2);
  context.fillText(text, 0, 0);
  context.restore();
}
