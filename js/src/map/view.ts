/** The matrix as one view shows it: chosen layers, in an order, perhaps transposed. */

import { type Branch, branchesOf, clusterRows } from "../matrix/clusters.ts";
import {
  extent,
  isMasked,
  type Mask,
  type Matrix,
  type Order,
  picked,
  positions,
  transposed,
} from "../matrix/matrix.ts";
import { type ColorRange, type PerSide, perSide, type Side } from "../protocol.ts";
import type { Session, Shown } from "../state/session.ts";

export interface Options {
  order: Order;
  mask: Mask;
  /** Values below are left out where the mask is the threshold. */
  threshold: number;
  transpose: boolean;
  /** Whether the first row is the lowest. */
  flip: boolean;
  /** Rows as last clustered, so that live frames do not shuffle what is looked at. */
  clustered?: PerSide<Clustered> | undefined;
}

/** Layers in the order of their dendrogram. */
export interface Clustered {
  readonly names: readonly string[];
  readonly branches: readonly Branch[];
}

export interface AxisView extends Clustered {
  readonly side: Side;
  /** Position of each name in the frame, -1 while it is not computed. */
  readonly index: readonly number[];
}

export interface MapView {
  readonly rows: AxisView;
  readonly columns: AxisView;
  readonly values: Matrix;
  readonly stderr: Matrix;
  /** Whether values are those of one result less those of another. */
  readonly isDifference: boolean;
  /** Layers of both models before any flip, to be kept while frames come in. */
  readonly clustered: PerSide<Clustered>;
  /** Whether the mask leaves a cell out. */
  hides(row: number, col: number): boolean;
  /** Null before the first frame: then no cell is computed. */
  readonly shown: Shown | null;
}

/** What the measure of a difference of two results ends with, as the kernel has it. */
const DIFFERENCE = " difference";

export interface Cell {
  readonly row: number;
  readonly col: number;
}

/** The palette of differences: white for 0, and a color for each side. */
export const DIVERGING = "puor";
/** Average linkage is cubic: beyond that it would stop the page for seconds. */
const MAX_CLUSTERED = 600;
/** With more cells than that, layers that are not computed yet are not drawn. */
const MAX_PENDING = 4_000_000;

/** A layer of an axis and where the frame has it, or -1. */
interface Entry {
  readonly name: string;
  readonly index: number;
}

/** What to draw: chosen layers, with those that no frame has yet in their places. */
export function mapView(session: Session, options: Options): MapView {
  const { shown } = session;
  const { rows = 0, cols = 0 } = shown?.frame ?? {};
  const size = { rows, cols };
  const all = { ...size, values: shown?.frame.matrix ?? new Float32Array() };
  const errors = { ...size, values: shown?.frame.stderr ?? new Float32Array() };
  const entries = chosenEntries(session);
  const known = entries.map((list) => indices(list).filter((k) => k >= 0));
  const own = () => picked(all, known[0] ?? [], known[1] ?? []);
  const sorted = [
    reordered(entries[0], own, options, 0),
    reordered(entries[1], () => transposed(own()), options, 1),
  ] as const;
  const lines = sorted.map((line, side) =>
    options.flip && side === Number(options.transpose) ? upwards(line) : line,
  ) as [Sorted, Sorted];
  const axis = (side: Side): AxisView => {
    const line = lines[side];
    return { side, index: indices(line.entries), ...namesOf(line) };
  };
  const cut = (matrix: Matrix) => {
    const [rows, cols] = lines.map((line) => indices(line.entries));
    const upright = picked(matrix, rows ?? [], cols ?? []);
    return options.transpose ? transposed(upright) : upright;
  };
  const values = cut(all);
  return {
    rows: axis(options.transpose ? 1 : 0),
    columns: axis(options.transpose ? 0 : 1),
    values,
    stderr: cut(errors),
    isDifference: session.metric.endsWith(DIFFERENCE),
    clustered: [namesOf(sorted[0]), namesOf(sorted[1])],
    hides: hiding(options, values),
    shown,
  };
}

/** The mask as it lies over a matrix whose rows may be drawn from below. */
function hiding(
  { mask, threshold, flip }: Options,
  { rows, cols, values }: Matrix,
): MapView["hides"] {
  if (mask === "threshold") {
    return (row, col) => (values[row * cols + col] as number) < threshold;
  }
  return (row, col) => isMasked(mask, flip ? rows - 1 - row : row, col);
}

function namesOf({ entries, branches }: Sorted): Clustered {
  return { names: entries.map(({ name }) => name), branches };
}

/** The same layers and joins, counted from the other end. */
function upwards({ entries, branches }: Sorted): Sorted {
  const mirrored = branches.map(({ middles: [first, second], heights }) => ({
    middles: [entries.length - first, entries.length - second] as const,
    heights,
  }));
  return { entries: [...entries].reverse(), branches: mirrored };
}

function indices(entries: readonly Entry[]): number[] {
  return entries.map(({ index }) => index);
}

function chosenEntries(session: Session): PerSide<Entry[]> {
  const have = session.shown?.axes.layers ?? [[], []];
  const both = perSide((side) => entriesOf(session.layers[side], have[side]));
  if (both[0].length * both[1].length <= MAX_PENDING) return both;
  return [both[0].filter(isKnown), both[1].filter(isKnown)];
}

function isKnown({ index }: Entry): boolean {
  return index >= 0;
}

/** Known layers in the frame's order, the others where they were chosen among them. */
function entriesOf(wanted: readonly string[], have: readonly string[]): Entry[] {
  const found = positions(wanted, have);
  const known = found.filter((index) => index >= 0).sort((a, b) => a - b);
  let next = 0;
  return found.map((index, k) => {
    if (index < 0) return { name: wanted[k] ?? "", index };
    const at = known[next++] ?? -1;
    return { name: have[at] ?? "", index: at };
  });
}

interface Sorted {
  readonly entries: readonly Entry[];
  readonly branches: readonly Branch[];
}

function reordered(
  entries: readonly Entry[],
  lines: () => Matrix,
  { order, clustered }: Options,
  side: Side,
): Sorted {
  if (order === "name") {
    const byName = (a: Entry, b: Entry) =>
      a.name.localeCompare(b.name, "en", { numeric: true });
    return { entries: [...entries].sort(byName), branches: [] };
  }
  if (order !== "clustered" || entries.length > MAX_CLUSTERED) {
    return { entries, branches: [] };
  }
  const { names, branches } = clustered?.[side] ?? { names: [], branches: [] };
  const kept = positions(
    names,
    entries.map(({ name }) => name),
  );
  if (kept.length === entries.length && kept.every((k) => k >= 0)) {
    return { entries: kept.map((k) => entries[k] as Entry), branches };
  }
  return byResemblance(entries, lines);
}

/** Layers that are not computed yet resemble none: they are the last. */
function byResemblance(entries: readonly Entry[], lines: () => Matrix): Sorted {
  const known = entries.filter(isKnown);
  const tree = known.length > 0 ? clusterRows(lines()) : null;
  const sorted = (tree?.order ?? []).map((k) => known[k] as Entry);
  const others = entries.filter((entry) => !isKnown(entry));
  return { entries: [...sorted, ...others], branches: branchesOf(tree) };
}

/** Whether no frame has the cell yet: one of its layers was chosen since. */
export function isPending({ rows, columns }: MapView, { row, col }: Cell): boolean {
  return (rows.index[row] ?? -1) < 0 || (columns.index[col] ?? -1) < 0;
}

/** Rounding leaves errors of about 1e-8 of layers with themselves. */
const NO_ERROR = 1e-7;

/** Whether a cell is a difference without an error, such as of a layer with itself. */
export function isExact(view: MapView, { row, col }: Cell): boolean {
  const at = row * view.values.cols + col;
  const isKnown = !Number.isNaN(view.values.values[at]);
  return view.isDifference && isKnown && (view.stderr.values[at] as number) < NO_ERROR;
}

/**
 * Values of the first and the last color; a fitted range holds what is shown, and that
 * of diverging colors has 0 in the middle.
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
 * What the image glyph gets: masked cells left out, and below the range nothing but
 * negatives, if it is not for them.
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

/** The float32 at or right above a number: what is rounded down lies below the range. */
function float32AtLeast(value: number): number {
  const rounded = Math.fround(value);
  return rounded < value ? Math.fround(value + Math.abs(value) * 2 ** -23) : rounded;
}

/** Whether a cell is shown as below zero: in colors from 0 or above, not from below. */
export function hasNegative(view: MapView, low: number): boolean {
  return low >= 0 && imageOf(view, 0).some((value) => value < 0);
}

/** What cells may be that the colors of values do not show. */
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

/** Cells that wait to be computed. */
export function pendingBoxes(view: MapView): Box {
  return boxesOf(view, (row, col) => isPending(view, { row, col }));
}

/** Cells of a difference that say nothing. */
export function exactBoxes(view: MapView): Box {
  if (!view.isDifference) return NO_BOXES; // A frame of a run pays for no look at them.
  return boxesOf(view, (row, col) => isExact(view, { row, col }));
}

/** Cells as few boxes: equal stretches of rows that follow each other are one. */
function boxesOf(view: MapView, isIn: (row: number, col: number) => boolean): Box {
  const box: Box = { left: [], right: [], top: [], bottom: [] };
  const { rows, cols } = view.values;
  let open = new Map<string, number>();
  for (let row = 0; row < rows; row++) {
    const next = new Map<string, number>();
    for (let col = 0; col < cols; ) {
      const isHole = (c: number) => c < cols && isIn(row, c) && !view.hides(row, c);
      if (!isHole(col)) {
        col += 1;
        continue;
      }
      const start = col;
      while (isHole(col)) col += 1;
      const key = `${start} ${col}`;
      const above = open.get(key);
      if (above !== undefined) {
        box.bottom[above] = row + 1;
        next.set(key, above);
      } else {
        next.set(key, box.left.length);
        box.left.push(start);
        box.right.push(col);
        box.top.push(row);
        box.bottom.push(row + 1);
      }
    }
    open = next;
  }
  return box;
}

/** Where a pair of layers is in the view, or null if it is not shown. */
export function cellOf(view: MapView, pair: readonly [string, string]): Cell | null {
  const [one, two] = pair;
  const row = view.rows.names.indexOf(view.rows.side === 0 ? one : two);
  const col = view.columns.names.indexOf(view.columns.side === 0 ? one : two);
  return row >= 0 && col >= 0 ? { row, col } : null;
}

/** The pair of layers of a cell, model 1 first. */
export function pairOf(view: MapView, cell: Cell): [string, string] {
  const row = view.rows.names[cell.row] ?? "";
  const col = view.columns.names[cell.col] ?? "";
  return view.rows.side === 0 ? [row, col] : [col, row];
}

/** The cell's position in the frame's matrix, -1 if it has none. */
export function frameIndex(view: MapView, cell: Cell): number {
  if (isPending(view, cell)) return -1;
  const row = view.rows.index[cell.row] ?? 0;
  const col = view.columns.index[cell.col] ?? 0;
  const cols = view.shown?.frame.cols ?? 0;
  return view.rows.side === 0 ? row * cols + col : col * cols + row;
}
