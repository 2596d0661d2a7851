/** The matrix as one view shows it: chosen layers in some order, perhaps transposed. */

import { type Branch, branchesOf, clusterRows } from "../matrix/clusters.ts";
import {
  isMasked,
  type Mask,
  type Matrix,
  type Order,
  picked,
  positions,
  transposed,
} from "../matrix/matrix.ts";
import { type PerSide, perSide, type Side } from "../protocol.ts";
import type { Shown } from "../state/frames.ts";

export interface Options {
  order: Order;
  mask: Mask;
  /** With the mask "threshold", values below this are left out. */
  threshold: number;
  transpose: boolean;
  /** Whether the first row is the lowest. */
  flip: boolean;
  /** The last clustered order, kept so that live frames do not shuffle the layers. */
  clustered?: PerSide<Clustered> | undefined;
}

/** Layers in the order of their dendrogram. */
export interface Clustered {
  readonly names: readonly string[];
  readonly branches: readonly Branch[];
}

export interface AxisView extends Clustered {
  readonly side: Side;
  /** Position of each name in the frame, -1 if it is not computed yet. */
  readonly index: readonly number[];
}

export interface MapView {
  readonly rows: AxisView;
  readonly columns: AxisView;
  readonly values: Matrix;
  readonly stderr: Matrix;
  /** Whether values are those of one result minus those of another. */
  readonly isDifference: boolean;
  /** Layers of both models before any flip, to be kept for the next frames. */
  readonly clustered: PerSide<Clustered>;
  /** Whether the mask leaves a cell out. */
  hides(row: number, col: number): boolean;
  /** Null before the first frame: then no cell is computed. */
  readonly shown: Shown | null;
  /** Why cells without a frame are not computed, in words. */
  readonly pendingReason: string;
}

/** What a map is made of. */
export interface MapSource {
  readonly shown: Shown | null;
  /** Chosen layers. */
  readonly layers: PerSide<readonly string[]>;
  readonly isDifference: boolean;
  /** Why a chosen layer may not be computed yet, in words. */
  readonly pendingReason: string;
}

export interface Cell {
  readonly row: number;
  readonly col: number;
}

/** Average linkage is cubic: with more layers it would block the page for seconds. */
const MAX_CLUSTERED = 600;
/** With more cells than this, layers that are not computed yet are not drawn. */
const MAX_PENDING = 4_000_000;

/** A layer of an axis and its position in the frame, or -1. */
interface Entry {
  readonly name: string;
  readonly index: number;
}

/** What to draw: chosen layers, with places for those that no frame has yet. */
export function mapView(source: MapSource, options: Options): MapView {
  const { shown, isDifference, pendingReason } = source;
  const entries = chosenEntries(source);
  const values = matrixOf(shown, "matrix");
  const sorted = sortedSides(entries, values, options);
  const lines = perSide((side) =>
    options.flip && side === Number(options.transpose)
      ? upwards(sorted[side])
      : sorted[side],
  );
  const [rows, columns] = lines.map((line) => indices(line.entries));
  const arranged = (matrix: Matrix) => {
    const upright = picked(matrix, rows ?? [], columns ?? []);
    return options.transpose ? transposed(upright) : upright;
  };
  const axes = perSide((side) => axisOf(lines[side], side));
  const shownValues = arranged(values);
  return {
    rows: axes[options.transpose ? 1 : 0],
    columns: axes[options.transpose ? 0 : 1],
    values: shownValues,
    stderr: arranged(matrixOf(shown, "stderr")),
    clustered: perSide((side) => clusteredOf(sorted[side])),
    hides: hiding(options, shownValues),
    ...{ isDifference, pendingReason, shown },
  };
}

function matrixOf(shown: Shown | null, name: "matrix" | "stderr"): Matrix {
  if (!shown) return { rows: 0, cols: 0, values: new Float32Array() };
  const { rows, cols } = shown.frame;
  return { rows, cols, values: shown.frame[name] };
}

/** The layers of each model in the order asked for, before any flip. */
function sortedSides(
  entries: PerSide<readonly Entry[]>,
  matrix: Matrix,
  options: Options,
): PerSide<Sorted> {
  const [rows, columns] = entries.map((list) => indices(list).filter((k) => k >= 0));
  const known = () => picked(matrix, rows ?? [], columns ?? []);
  return [
    reordered(entries[0], known, options, 0),
    reordered(entries[1], () => transposed(known()), options, 1),
  ];
}

function axisOf(line: Sorted, side: Side): AxisView {
  return { side, index: indices(line.entries), ...clusteredOf(line) };
}

/** The mask over a matrix that may be drawn upside down. */
function hiding(
  { mask, threshold, flip }: Options,
  { rows, cols, values }: Matrix,
): MapView["hides"] {
  if (mask === "threshold") {
    return (row, col) => (values[row * cols + col] as number) < threshold;
  }
  return (row, col) => isMasked(mask, flip ? rows - 1 - row : row, col);
}

function clusteredOf({ entries, branches }: Sorted): Clustered {
  return { names: entries.map(({ name }) => name), branches };
}

/** The same layers and branches, counted from the other end. */
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

function chosenEntries({ shown, layers }: MapSource): PerSide<Entry[]> {
  const known = shown?.axes.layers ?? [[], []];
  const both = perSide((side) => entriesOf(layers[side], known[side]));
  if (both[0].length * both[1].length <= MAX_PENDING) return both;
  return [both[0].filter(isKnown), both[1].filter(isKnown)];
}

function isKnown({ index }: Entry): boolean {
  return index >= 0;
}

/** Known layers in the frame's order, new ones where they were chosen among them. */
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

/** Entries in the order asked for; `lines` are the rows by which they are clustered. */
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
  const kept = clustered && inOrderOf(clustered[side], entries);
  return kept ?? byResemblance(entries, lines);
}

/** The entries in the order of the last clustering, or null if they are others. */
function inOrderOf(
  { names, branches }: Clustered,
  entries: readonly Entry[],
): Sorted | null {
  const own = entries.map(({ name }) => name);
  const order = positions(names, own);
  if (order.length !== entries.length || order.some((k) => k < 0)) return null;
  return { entries: order.map((k) => entries[k] as Entry), branches };
}

/** Layers that are not computed yet resemble none, so they come last. */
function byResemblance(entries: readonly Entry[], lines: () => Matrix): Sorted {
  const known = entries.filter(isKnown);
  const tree = known.length > 0 ? clusterRows(lines()) : null;
  const sorted = (tree?.order ?? []).map((k) => known[k] as Entry);
  const others = entries.filter((entry) => !isKnown(entry));
  return { entries: [...sorted, ...others], branches: branchesOf(tree) };
}

/** Whether no frame has the cell yet, because one of its layers was chosen later. */
export function isPending({ rows, columns }: MapView, { row, col }: Cell): boolean {
  return (rows.index[row] ?? -1) < 0 || (columns.index[col] ?? -1) < 0;
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

/** The cell's position in the frame's matrix, or -1. */
export function frameIndex(view: MapView, cell: Cell): number {
  if (isPending(view, cell)) return -1;
  const row = view.rows.index[cell.row] ?? 0;
  const col = view.columns.index[cell.col] ?? 0;
  const cols = view.shown?.frame.cols ?? 0;
  return view.rows.side === 0 ? row * cols + col : col * cols + row;
}
