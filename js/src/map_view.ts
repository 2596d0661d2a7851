/** The matrix as one view shows it: chosen layers, in an order, perhaps transposed. */

import {
  clusteredOrder,
  extent,
  isMasked,
  type Mask,
  type Matrix,
  type Order,
  picked,
  positions,
  transposed,
} from "./matrix.ts";
import type { ColorRange, Side } from "./protocol.ts";
import type { Session, Shown } from "./session.ts";

export interface Options {
  order: Order;
  mask: Mask;
  transpose: boolean;
  /** Names as last clustered, so that live frames do not shuffle what is looked at. */
  clustered?: readonly [readonly string[], readonly string[]] | undefined;
}

export interface AxisView {
  readonly side: Side;
  readonly names: readonly string[];
  /** Position of each name in the frame. */
  readonly index: readonly number[];
  readonly reasons: Readonly<Record<string, string>>;
}

export interface MapView {
  readonly rows: AxisView;
  readonly columns: AxisView;
  readonly values: Matrix;
  readonly stderr: Matrix;
  readonly shown: Shown;
  /** Chosen layers that the frame does not have, of both models. */
  readonly missing: number;
}

export interface Cell {
  readonly row: number;
  readonly col: number;
}

const MAX_CLUSTERED = 600;
/** Average linkage is cubic: beyond that it would stop the page for seconds. */

/** What to draw, or null before the first frame. */
export function mapView(session: Session, options: Options): MapView | null {
  const { shown } = session;
  if (!shown) return null;
  const { frame, axes } = shown;
  const size = { rows: frame.rows, cols: frame.cols };
  const all = { ...size, values: frame.matrix };
  const errors = { ...size, values: frame.stderr };
  const parts = ([1, 2] as const).map((side) => {
    const { index, missing } = positions(
      session.layers[side - 1] as readonly string[],
      axes.layers[side - 1] as readonly string[],
    );
    return { side, index: index.sort((a, b) => a - b), missing: missing.length };
  });
  const [first, second] = parts as [(typeof parts)[0], (typeof parts)[0]];
  const own = () => picked(all, first.index, second.index);
  const sorted = {
    1: reordered(first.index, own, axes.layers[0], options, 0),
    2: reordered(second.index, () => transposed(own()), axes.layers[1], options, 1),
  };
  const axis = (side: Side): AxisView => ({
    side,
    index: sorted[side],
    names: sorted[side].map((k) => axes.layers[side - 1]?.[k] ?? ""),
    reasons: axes.undefinedLayers[side - 1] ?? {},
  });
  const cut = (matrix: Matrix) => {
    const upright = picked(matrix, sorted[1], sorted[2]);
    return options.transpose ? transposed(upright) : upright;
  };
  return {
    rows: axis(options.transpose ? 2 : 1),
    columns: axis(options.transpose ? 1 : 2),
    values: cut(all),
    stderr: cut(errors),
    shown,
    missing: first.missing + second.missing,
  };
}

function reordered(
  index: readonly number[],
  lines: () => Matrix,
  names: readonly string[],
  { order, clustered }: Options,
  side: 0 | 1,
): number[] {
  if (order === "name") {
    const name = (k: number) => names[k] ?? "";
    return [...index].sort((a, b) =>
      name(a).localeCompare(name(b), "en", { numeric: true }),
    );
  }
  if (order === "clustered" && index.length <= MAX_CLUSTERED) {
    const kept = positions(clustered?.[side] ?? [], names).index;
    const wanted = new Set(index);
    if (kept.length === index.length && kept.every((k) => wanted.has(k))) return kept;
    return clusteredOrder(lines()).map((k) => index[k] as number);
  }
  return [...index];
}

/** Lowest and highest value of the palette. */
export function limits(view: MapView | null, range: ColorRange): [number, number] {
  if (range !== "fit") return [range[0], range[1]];
  const found = view && extent(view.values.values);
  if (!found) return [0, 1];
  const low = Math.max(0, found[0]);
  const high = Math.max(low, found[1]);
  return high - low > 1e-6 ? [low, high] : [Math.max(0, low - 0.05), high + 0.05];
}

/** What the image glyph gets: masked cells left out, nothing but negatives below zero. */
export function imageOf(view: MapView, mask: Mask, low: number): Float32Array {
  const { rows, cols, values } = view.values;
  const image = Float32Array.from(values);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const at = row * cols + col;
      const value = image[at] as number;
      if (isMasked(mask, row, col)) image[at] = Number.NaN;
      else if (value >= 0 && value < low) image[at] = low;
    }
  }
  return image;
}

export interface Box {
  readonly left: number[];
  readonly right: number[];
  readonly top: number[];
  readonly bottom: number[];
}

/** Undefined cells as few boxes: equal stretches of rows that follow each other are one. */
export function undefinedBoxes(view: MapView, mask: Mask): Box {
  const box: Box = { left: [], right: [], top: [], bottom: [] };
  const { rows, cols, values } = view.values;
  let open = new Map<string, number>();
  for (let row = 0; row < rows; row++) {
    const next = new Map<string, number>();
    for (let col = 0; col < cols; ) {
      const isHole = (c: number) =>
        c < cols && Number.isNaN(values[row * cols + c]) && !isMasked(mask, row, c);
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
  const row = view.rows.names.indexOf(view.rows.side === 1 ? one : two);
  const col = view.columns.names.indexOf(view.columns.side === 1 ? one : two);
  return row >= 0 && col >= 0 ? { row, col } : null;
}

/** The pair of layers of a cell, model 1 first. */
export function pairOf(view: MapView, cell: Cell): [string, string] {
  const row = view.rows.names[cell.row] ?? "";
  const col = view.columns.names[cell.col] ?? "";
  return view.rows.side === 1 ? [row, col] : [col, row];
}

/** The cell's position in the frame's matrix. */
export function frameIndex(view: MapView, cell: Cell): number {
  const row = view.rows.index[cell.row] ?? 0;
  const col = view.columns.index[cell.col] ?? 0;
  const { cols } = view.shown.frame;
  return view.rows.side === 1 ? row * cols + col : col * cols + row;
}
