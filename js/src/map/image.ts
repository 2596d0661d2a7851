/** What is drawn of a map: colors in an image, and boxes where colors say nothing. */

import { extent } from "../matrix/matrix.ts";
import type { ColorRange } from "../protocol.ts";
import { type Cell, isPending, type MapView } from "./view.ts";

/** The palette of differences: white for 0, and a color for each side. */
export const DIVERGING = "puor";
/** Rounding leaves layers compared with themselves errors of about 1e-8. */
const NO_ERROR = 1e-7;

/** Whether a cell is a difference without an error: a layer minus itself, say. */
export function isExact(view: MapView, { row, col }: Cell): boolean {
  const at = row * view.values.cols + col;
  const isKnown = !Number.isNaN(view.values.values[at]);
  return view.isDifference && isKnown && (view.stderr.values[at] as number) < NO_ERROR;
}

/** A map as it is drawn: all that depends on every cell, computed once. */
export interface MapImage {
  /** Values of the first and the last color. */
  readonly limits: readonly [number, number];
  /** What the image glyph gets. */
  readonly values: Float32Array;
  /** Whether a cell is shown as below zero: in colors from 0 up, not from below. */
  readonly hasNegative: boolean;
  readonly boxes: Readonly<Record<BoxKind, Box>>;
}

export function mapImage(view: MapView, range: ColorRange, palette = ""): MapImage {
  const ends = limits(view, range, palette);
  const values = imageOf(view, ends[0]);
  return {
    limits: ends,
    values,
    hasNegative: ends[0] >= 0 && values.some((value) => value < 0),
    boxes: {
      undefined: undefinedBoxes(view),
      pending: pendingBoxes(view),
      exact: exactBoxes(view),
    },
  };
}

/**
 * Values of the first and the last color. A fitted range spans what is shown; with
 * diverging colors 0 is in its middle.
 */
export function limits(
  view: MapView | null,
  range: ColorRange,
  palette = "",
): [number, number] {
  if (range !== "fit") return [range[0], range[1]];
  const found = view && extent(imageOf(view, Number.NEGATIVE_INFINITY));
  if (palette === DIVERGING) {
    const most = found ? Math.max(-found[0], found[1]) : 0;
    return most > 1e-6 ? [-most, most] : [-1, 1];
  }
  if (!found) return [0, 1];
  const low = Math.max(0, found[0]);
  const high = Math.max(low, found[1]);
  return high - low > 1e-6 ? [low, high] : [Math.max(0, low - 0.05), high + 0.05];
}

/**
 * Values with masked cells left out. Values below the range get its first color, but
 * negative ones stay below a range that starts at 0 or above.
 */
export function imageOf(view: MapView, low: number): Float32Array {
  const { rows, cols, values } = view.values;
  const image = Float32Array.from(values);
  const least = float32AtLeast(low);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const at = row * cols + col;
      const value = image[at] as number;
      if (view.hides(row, col)) image[at] = Number.NaN;
      else if ((value >= 0 || low < 0) && value < low) image[at] = least;
    }
  }
  return image;
}

/** The least float32 that is not below the number: rounding down would leave the range. */
function float32AtLeast(value: number): number {
  const rounded = Math.fround(value);
  return rounded < value ? Math.fround(value + Math.abs(value) * 2 ** -23) : rounded;
}

/** What cells may be, other than a value with a color. */
export type BoxKind = "undefined" | "pending" | "exact";

export interface Box {
  readonly left: number[];
  readonly right: number[];
  readonly top: number[];
  readonly bottom: number[];
}

export const NO_BOXES: Box = { left: [], right: [], top: [], bottom: [] };

/** Computed cells without a value. */
export function undefinedBoxes(view: MapView): Box {
  const { cols, values } = view.values;
  return boxesOf(view, (row, col) => {
    return Number.isNaN(values[row * cols + col]) && !isPending(view, { row, col });
  });
}

/** Cells that are not computed yet. */
export function pendingBoxes(view: MapView): Box {
  return boxesOf(view, (row, col) => isPending(view, { row, col }));
}

/** Cells of a difference that are 0 by construction. */
export function exactBoxes(view: MapView): Box {
  if (!view.isDifference) return NO_BOXES; // Spares each frame of a run the walk.
  return boxesOf(view, (row, col) => isExact(view, { row, col }));
}

/** Cells merged into few boxes: equal stretches of successive rows are one box. */
function boxesOf(view: MapView, isIn: (row: number, col: number) => boolean): Box {
  const box: Box = { left: [], right: [], top: [], bottom: [] };
  const { rows, cols } = view.values;
  let open = new Map<string, number>();
  for (let row = 0; row < rows; row++) {
    const isShown = (col: number) => isIn(row, col) && !view.hides(row, col);
    const next = new Map<string, number>();
    for (const [start, end] of stretches(cols, isShown)) {
      const key = `${start} ${end}`;
      const k = open.get(key) ?? box.left.length;
      next.set(key, k);
      box.left[k] = start;
      box.right[k] = end;
      box.top[k] ??= row;
      box.bottom[k] = row + 1;
    }
    open = next;
  }
  return box;
}

/** Starts and ends of the stretches for which the test holds. */
function stretches(
  length: number,
  test: (at: number) => boolean,
): [start: number, end: number][] {
  const found: [number, number][] = [];
  for (let at = 0; at < length; at++) {
    if (!test(at)) continue;
    const start = at;
    while (at < length && test(at)) at += 1;
    found.push([start, at]);
  }
  return found;
}
