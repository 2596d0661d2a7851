/** What is said about a cell: the readout, the spoken words, the best matches. */

import { bestMatch, columnOf, rankOf, rowOf } from "../matrix/matrix.ts";
import { perSide, SIDES, type Side } from "../protocol.ts";
import type { Session } from "../state/session.ts";
import { digitsOf, layerName, plural, plusMinus, shape, value } from "../ui/format.ts";
import { type Cell, isExact, isPending, type MapView, pairOf } from "./view.ts";

/** A layer's name as shown; the root goes by its class. */
export function shownName(session: Session, side: Side, name: string): string {
  const tree = session.trees[side];
  return layerName(name, tree.columns.type[tree.rowOf.get(name) ?? -1] ?? "");
}

export function valueAt(view: MapView, { row, col }: Cell): number {
  return view.values.values[row * view.values.cols + col] ?? Number.NaN;
}

export function errorAt(view: MapView, { row, col }: Cell): number {
  return view.stderr.values[row * view.stderr.cols + col] ?? Number.NaN;
}

/** Value and error of a cell, with no more digits than their frame has. */
export function textAt(view: MapView, cell: Cell, most = 3): [string, string] {
  const digits = digitsOf(view.shown?.frame.step ?? 0, most);
  return [
    value(valueAt(view, cell), digits),
    plusMinus(errorAt(view, cell), Math.min(most, digits + 1)),
  ];
}

/** Why a cell has no value, in the kernel's words. */
export function reasonFor(session: Session, view: MapView, cell: Cell): string {
  if (isPending(view, cell)) return pendingWords(session);
  const pair = pairOf(view, cell);
  const parts = SIDES.flatMap((side) => {
    const reason = view.shown?.axes.undefinedLayers[side][pair[side]];
    return reason ? [`${shownName(session, side, pair[side])}: ${reason}`] : [];
  });
  return parts.length > 0 ? `Undefined. ${parts.join("; ")}` : "Undefined";
}

/** What is said of layers that were chosen after the run, or before the first. */
export function pendingWords(session: Session): string {
  if (!session.canRun) return "Not computed";
  const button = buttonWord(session);
  return button ? `Not computed yet: ${button}` : "Not computed yet";
}

/** What of the choice the map cannot show, or "". */
export function missingWords(session: Session): string {
  const empty = session.layers.findIndex((layers) => layers.length === 0);
  if (empty >= 0) {
    const name = session.meta.names[empty];
    return `No layer of ${name} is chosen: check some in its tree.`;
  }
  const some = session.status === "running" ? 0 : session.missing;
  if (some === 0) return "";
  const what = some === 1 ? "1 chosen layer is" : `${some} chosen layers are`;
  if (!session.canRun) return `${what} not in this saved map.`;
  return `${what} not computed yet: ${buttonWord(session)} fills the map.`;
}

/** The whole map in two sentences, for those who do not see it. */
export function summaryWords(session: Session, view: MapView): string {
  const [first, second] = session.meta.names;
  const { rows, cols } = view.values;
  const names = view.rows.side === 0 ? [first, second] : [second, first];
  const batch = view.shown?.frame.batch ?? 0;
  return (
    `CKA of ${rows} layers of ${names[0]} by ${cols} layers of ${names[1]} ` +
    `after ${plural(batch, "batch", "batches")}. Arrow keys move, Enter shows the trends of a cell.`
  );
}

/** The button that computes what is missing; none while the run goes on. */
export function buttonWord({ status }: Session): string {
  if (status === "running") return "";
  return status === "paused" ? "Resume" : "Run";
}

export interface Readout {
  readonly names: readonly [string, string];
  readonly value: string;
  readonly facts: string;
}

export function readout(session: Session, view: MapView, cell: Cell): Readout {
  const pair = pairOf(view, cell);
  const names = perSide((side) => shownName(session, side, pair[side]));
  const number = valueAt(view, cell);
  const facts = SIDES.map((side) => layerFacts(session, side, pair[side]));
  const known = !Number.isNaN(number);
  const rest = known ? ranks(view, cell) : [reasonFor(session, view, cell)];
  const both = facts.filter(Boolean).join(" \u00d7 ");
  return {
    names,
    value: textAt(view, cell, 4).join(" ").trim(),
    facts: [both, ...rest].filter(Boolean).join(" \u00b7 "),
  };
}

function layerFacts(session: Session, side: Side, name: string): string {
  const tree = session.trees[side];
  const row = tree?.rowOf.get(name);
  if (row === undefined) return "";
  const { columns } = tree;
  return [columns.type[row], shape(columns.shape[row] ?? null)]
    .filter(Boolean)
    .join(" ");
}

function ranks(view: MapView, { row, col }: Cell): string[] {
  const batches = view.shown?.frame.batch ?? 0;
  return [
    rankWords(rowOf(view.values, row), col, "row"),
    rankWords(columnOf(view.values, col), row, "column"),
    plural(batches, "batch", "batches"),
  ].filter(Boolean);
}

/** "2nd of 9 in row": of those that have a value. */
function rankWords(line: Float32Array, index: number, where: string): string {
  const rank = rankOf(line, index);
  const known = line.filter((number) => !Number.isNaN(number)).length;
  return rank === null ? "" : `${ordinal(rank)} of ${known} in ${where}`;
}

/** "layer2.0 by layer3.1, 0.73 plus or minus 0.01" */
export function spoken(session: Session, view: MapView, cell: Cell): string {
  const pair = pairOf(view, cell);
  const names = SIDES.map((side) => shownName(session, side, pair[side])).join(" by ");
  const number = valueAt(view, cell);
  if (Number.isNaN(number)) return `${names}, ${reasonFor(session, view, cell)}`;
  const sign = number < 0 ? "minus " : "";
  const error = errorAt(view, cell);
  const spread = Number.isNaN(error) ? "" : ` plus or minus ${error.toFixed(3)}`;
  const tail = isExact(view, cell) ? ", standard error 0" : spread;
  return `${names}, ${sign}${Math.abs(number).toFixed(2)}${tail}`;
}

/** One sentence about the row's or the column's best match, or null if it has none. */
export function bestMatchWords(
  session: Session,
  view: MapView,
  cell: Cell,
  along: "row" | "column",
): { of: string; match: string; rest: string } | null {
  const isRow = along === "row";
  const [own, other] = isRow ? [view.rows, view.columns] : [view.columns, view.rows];
  const ownName = own.names[isRow ? cell.row : cell.col] ?? "";
  const line = isRow ? rowOf(view.values, cell.row) : columnOf(view.values, cell.col);
  const error = isRow ? rowOf(view.stderr, cell.row) : columnOf(view.stderr, cell.col);
  // That a layer is most like itself says nothing.
  const isItself = (k: number) => session.meta.self && other.names[k] === ownName;
  const others = line.map((number, k) => (isItself(k) ? Number.NaN : number));
  const best = bestMatch(others, error);
  if (!best) return null;
  const otherName = other.names[best.index] ?? "";
  const ties =
    best.ties > 0 ? `; ${plural(best.ties, "other")} within the standard error` : "";
  const at = isRow
    ? { row: cell.row, col: best.index }
    : { row: best.index, col: cell.col };
  const number = textAt(view, at).filter(Boolean).join("\u00a0");
  return {
    of: shownName(session, own.side, ownName),
    match: shownName(session, other.side, otherName),
    rest: `(${number})${ties}`,
  };
}

function ordinal(number: number): string {
  const tens = number % 100;
  if (tens >= 11 && tens <= 13) return `${number}th`;
  return `${number}${["th", "st", "nd", "rd"][number % 10] ?? "th"}`;
}
