/** Which cells are marked: best matches, or the best path. Pure functions. */

import type { Cell, MapView } from "./map_view.ts";
import { bestMatches, picked } from "./matrix.ts";
import { bestPath } from "./path.ts";
import { valueAt } from "./words.ts";

export type MarkKind = "none" | "matches" | "path";

export interface Marks {
  /** Best of each row, best of each column, and what a line joins in this order. */
  readonly ofRows: readonly Cell[];
  readonly ofColumns: readonly Cell[];
  readonly path: readonly Cell[];
}

/** A path through layers in another order than their own is no line, but its cells. */
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

/** Each marked pair once. */
export function markedCells({ ofRows, ofColumns, path }: Marks): Cell[] {
  const all = [...path, ...ofRows, ...ofColumns];
  return [...new Map(all.map((cell) => [`${cell.row} ${cell.col}`, cell])).values()];
}

/** Mean value of the cells that have one. */
export function meanAt(view: MapView, cells: readonly Cell[]): number {
  const known = cells
    .map((cell) => valueAt(view, cell))
    .filter((value) => !Number.isNaN(value));
  return known.reduce((sum, value) => sum + value, 0) / known.length;
}

/** The best match of each row and of each column; of a model with itself, of others. */
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

/** The best path through the computed layers as they are executed, past masked cells. */
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

/** Positions on an axis by the positions in the frame that they show. */
function inOrder(index: readonly number[]): number[] {
  const at = (k: number) => index[k] as number;
  return index
    .map((_, k) => k)
    .filter((k) => at(k) >= 0)
    .sort((a, b) => at(a) - at(b));
}
