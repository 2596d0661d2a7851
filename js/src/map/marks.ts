/** Which cells are marked, and how: best matches or the best path. Pure functions. */

import { bestPath } from "../matrix/best_path.ts";
import { bestMatches, picked } from "../matrix/matrix.ts";
import type { Cell, MapView } from "./view.ts";
import { valueAt } from "./words.ts";

export type MarkKind = "none" | "matches" | "path";

export interface Marks {
  /** Best matches of rows and of columns, and cells that a line joins in this order. */
  readonly ofRows: readonly Cell[];
  readonly ofColumns: readonly Cell[];
  readonly path: readonly Cell[];
}

/** Where layers are not in execution order, a path is marked as cells without a line. */
export function marksOf(
  view: MapView,
  kind: MarkKind,
  { isSelf, isInOrder }: { isSelf: boolean; isInOrder: boolean },
): Marks {
  const none = { ofRows: [], ofColumns: [], path: [] };
  if (kind === "matches") return { ...none, ...matchCells(view, isSelf) };
  if (kind === "none") return none;
  const path = pathCells(view);
  return isInOrder ? { ...none, path } : { ...none, ofRows: path };
}

/** Everything drawn over cells has a dark rim, so that it shows on any color. */
export const HALO = "#06141f";
const INK = "#ffffff";

/** A line of marks as the d of an SVG path. */
export interface Stroke {
  readonly d: string;
  readonly stroke: string;
  readonly width: number;
  readonly fill: string;
}

/**
 * The marks as BokehJS draws them (see Python's `_figures`): squares with room for the
 * dots, and a line. `placeOf` gives the place of a cell in pixels.
 */
export function strokesOf(
  { ofRows, ofColumns, path }: Marks,
  placeOf: (cell: Cell) => readonly [x: number, y: number],
): Stroke[] {
  const at = (cell: Cell) => placeOf(cell).join(" ");
  const line = path.map((cell, k) => `${k > 0 ? "L" : "M"}${at(cell)}`).join("");
  const squares = ofColumns.map((cell) => `M${at(cell)}m-6-6h12v12h-12z`).join("");
  const dots = ofRows.map((cell) => `M${at(cell)}m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z`);
  const rimmed = (d: string, rim: number, width: number) => [
    { d, stroke: HALO, width: rim, fill: "none" },
    { d, stroke: INK, width, fill: "none" },
  ];
  return [
    ...rimmed(line, 4, 2),
    ...rimmed(squares, 3.5, 1.5),
    { d: dots.join(""), stroke: HALO, width: 1, fill: INK },
  ].filter(({ d }) => d !== "");
}

/** All marked cells, each once. */
export function markedCells({ ofRows, ofColumns, path }: Marks): Cell[] {
  const all = [...path, ...ofRows, ...ofColumns];
  return [...new Map(all.map((cell) => [`${cell.row} ${cell.col}`, cell])).values()];
}

/** Mean of the cells that have a value. */
export function meanAt(view: MapView, cells: readonly Cell[]): number {
  const known = cells
    .map((cell) => valueAt(view, cell))
    .filter((value) => !Number.isNaN(value));
  return known.reduce((sum, value) => sum + value, 0) / known.length;
}

/** The best match of each row and column; within one model, among other layers. */
export function matchCells(
  view: MapView,
  isSelf: boolean,
): { ofRows: Cell[]; ofColumns: Cell[] } {
  const { rows, columns } = view;
  const isOther = (row: number, col: number) =>
    !isSelf || rows.names[row] !== columns.names[col];
  const { ofRow, ofColumn } = bestMatches(
    view.values,
    (row, col) => isOther(row, col) && !view.hides(row, col),
  );
  return {
    ofRows: ofRow.flatMap((col, row) => (col < 0 ? [] : [{ row, col }])),
    ofColumns: ofColumn.flatMap((row, col) => (row < 0 ? [] : [{ row, col }])),
  };
}

/** The best path through computed layers in execution order; masked cells do not count. */
export function pathCells(view: MapView): Cell[] {
  const rows = inOrder(view.rows.index);
  const cols = inOrder(view.columns.index);
  const matrix = picked(view.values, rows, cols);
  const values = matrix.values.map((value, at) => {
    const row = rows[Math.floor(at / cols.length)] as number;
    return view.hides(row, cols[at % cols.length] as number) ? Number.NaN : value;
  });
  return bestPath({ ...matrix, values }).map(([row, col]) => ({
    row: rows[row] as number,
    col: cols[col] as number,
  }));
}

/** Positions on an axis, in the order of the frame. */
function inOrder(index: readonly number[]): number[] {
  const at = (k: number) => index[k] as number;
  return index
    .map((_, k) => k)
    .filter((k) => at(k) >= 0)
    .sort((a, b) => at(a) - at(b));
}
