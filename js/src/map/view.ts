/** The matrix as one view shows it: chosen layers, in an order, perhaps transposed. */

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
export function mapView(source: MapSource, options: Options): MapView {
  const { shown } = source;
  const { rows = 0, cols = 0 } = shown?.frame ?? {};
  const size = { rows, cols };
  const all = { ...size, values: shown?.frame.matrix ?? new Float32Array() };
  const errors = { ...size, values: shown?.frame.stderr ?? new Float32Array() };
  const entries = chosenEntries(source);
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
    isDifference: source.isDifference,
    pendingReason: source.pendingReason,
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

function chosenEntries({ shown, layers }: MapSource): PerSide<Entry[]> {
  const known = shown?.axes.layers ?? [[], []];
  const both = perSide((side) => entriesOf(layers[side], known[side]));
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
