/** Cells and the map in words: the readout, spoken text, best matches. */

import { bestMatch, columnOf, rankOf, rowOf } from "../matrix/matrix.ts";
import { type PerSide, perSide, SIDES, type Side } from "../protocol.ts";
import type { LayerChoice } from "../state/choice.ts";
import type { Comparison } from "../state/comparison.ts";
import type { Shown } from "../state/frames.ts";
import type { Run } from "../state/run.ts";
import { digitsOf, plural, plusMinus, shape, value } from "../ui/format.ts";
import { isExact } from "./image.ts";
import { type Cell, isPending, type MapView, pairOf } from "./view.ts";

export function valueAt(view: MapView, { row, col }: Cell): number {
  return view.values.values[row * view.values.cols + col] ?? Number.NaN;
}

export function errorAt(view: MapView, { row, col }: Cell): number {
  return view.stderr.values[row * view.stderr.cols + col] ?? Number.NaN;
}

/** Value and error of a cell, with no more digits than the frame has. */
export function textAt(view: MapView, cell: Cell, most = 3): [string, string] {
  const digits = digitsOf(view.shown?.frame.step ?? 0, most);
  return [
    value(valueAt(view, cell), digits),
    plusMinus(errorAt(view, cell), Math.min(most, digits + 1)),
  ];
}

/** Why a cell has no value, in the kernel's words. */
export function reasonFor(comparison: Comparison, view: MapView, cell: Cell): string {
  if (isPending(view, cell)) return view.pendingReason;
  const pair = pairOf(view, cell);
  const parts = SIDES.flatMap((side) => {
    const reason = view.shown?.axes.undefinedLayers[side][pair[side]];
    return reason ? [`${comparison.layerName(side, pair[side])}: ${reason}`] : [];
  });
  return parts.length > 0 ? `Undefined. ${parts.join("; ")}` : "Undefined";
}

/** Why a chosen layer may not be computed yet, and what computes it. */
export function pendingReason(run: Run): string {
  if (!run.canRun) return "Not computed";
  if (run.isQueued)
    return run.isReadOnce ? "Not computed in this run" : "Computed after this run";
  const button = runButton(run);
  return button ? `Not computed yet: ${button}` : "Not computed yet";
}

/** Which part of the choice the map cannot show, or "". */
export function missingWords(
  names: PerSide<string>,
  choice: LayerChoice,
  shown: Shown | null,
  run: Run,
): string {
  const empty = SIDES.find((side) => choice.layers[side].length === 0);
  if (empty !== undefined) {
    return `No layer of ${names[empty]} is chosen: check some in its tree.`;
  }
  const isBusy = run.status === "running" && !run.isQueued;
  const missing = isBusy ? 0 : choice.missingFrom(shown);
  if (missing === 0) return "";
  if (run.isQueued) return queuedWords(missing, run.isReadOnce);
  const what = plural(missing, "chosen layer is", "chosen layers are");
  if (!run.canRun) return `${what} not in this saved map.`;
  return `${what} not computed yet: ${runButton(run)} fills the map.`;
}

function queuedWords(count: number, isReadOnce: boolean): string {
  const what = plural(count, "new layer is", "new layers are");
  if (!isReadOnce) return `${what} computed after this run.`;
  return (
    `${what} not in this run, because its loader can be iterated only once. ` +
    "A restart computes all layers over the remaining batches."
  );
}

/** The whole map in two sentences, for screen readers. */
export function summaryWords(names: PerSide<string>, view: MapView): string {
  const { rows, cols } = view.values;
  const [ofRows, ofColumns] = [names[view.rows.side], names[view.columns.side]];
  const batch = view.shown?.frame.batch ?? 0;
  return (
    `CKA of ${rows} layers of ${ofRows} by ${cols} layers of ${ofColumns} ` +
    `after ${plural(batch, "batch", "batches")}. Arrow keys move, Enter shows the trends of a cell.`
  );
}

/** The button that computes what is missing; none during a run. */
function runButton({ status }: Run): string {
  if (status === "running") return "";
  return status === "paused" ? "Resume" : "Run";
}

export interface Readout {
  readonly names: readonly [string, string];
  readonly value: string;
  readonly facts: string;
}

export function readout(comparison: Comparison, view: MapView, cell: Cell): Readout {
  const pair = pairOf(view, cell);
  const names = perSide((side) => comparison.layerName(side, pair[side]));
  const number = valueAt(view, cell);
  const facts = SIDES.map((side) => layerFacts(comparison, side, pair[side]));
  const known = !Number.isNaN(number);
  const rest = known ? ranks(view, cell) : [reasonFor(comparison, view, cell)];
  const both = facts.filter(Boolean).join(" \u00d7 ");
  return {
    names,
    value: textAt(view, cell, 4).join(" ").trim(),
    facts: [both, ...rest].filter(Boolean).join(" \u00b7 "),
  };
}

function layerFacts(comparison: Comparison, side: Side, name: string): string {
  const tree = comparison.trees[side];
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

/** "2nd of 9 in row", among the cells that have a value. */
function rankWords(line: Float32Array, index: number, where: string): string {
  const rank = rankOf(line, index);
  const known = line.filter((number) => !Number.isNaN(number)).length;
  return rank === null ? "" : `${ordinal(rank)} of ${known} in ${where}`;
}

/** "layer2.0 by layer3.1, 0.73 plus or minus 0.01" */
export function spoken(comparison: Comparison, view: MapView, cell: Cell): string {
  const pair = pairOf(view, cell);
  const names = SIDES.map((side) => comparison.layerName(side, pair[side])).join(
    " by ",
  );
  const number = valueAt(view, cell);
  if (Number.isNaN(number)) return `${names}, ${reasonFor(comparison, view, cell)}`;
  const sign = number < 0 ? "minus " : "";
  const error = errorAt(view, cell);
  const spread = Number.isNaN(error) ? "" : ` plus or minus ${error.toFixed(3)}`;
  const tail = isExact(view, cell) ? ", standard error 0" : spread;
  return `${names}, ${sign}${Math.abs(number).toFixed(2)}${tail}`;
}

/** The best match of the cell's row or column in words, or null if it has none. */
export function bestMatchWords(
  comparison: Comparison,
  view: MapView,
  { row, col }: Cell,
  along: "row" | "column",
): { of: string; match: string; rest: string } | null {
  const isRow = along === "row";
  const [own, other] = isRow ? [view.rows, view.columns] : [view.columns, view.rows];
  const name = own.names[isRow ? row : col] ?? "";
  const line = ({ values, stderr }: MapView) =>
    isRow
      ? ([rowOf(values, row), rowOf(stderr, row)] as const)
      : ([columnOf(values, col), columnOf(stderr, col)] as const);
  const [values, errors] = line(view);
  // It means nothing that a layer matches itself best.
  const isItself = (k: number) => comparison.isSelf && other.names[k] === name;
  const others = values.map((number, k) => (isItself(k) ? Number.NaN : number));
  const best = bestMatch(others, errors);
  if (!best) return null;
  const { index, ties } = best;
  const at = isRow ? { row, col: index } : { row: index, col };
  const number = textAt(view, at).filter(Boolean).join("\u00a0");
  const tied = `; ${plural(ties, "other")} within the standard error`;
  return {
    of: comparison.layerName(own.side, name),
    match: comparison.layerName(other.side, other.names[index] ?? ""),
    rest: `(${number})${ties > 0 ? tied : ""}`,
  };
}

function ordinal(number: number): string {
  const tens = number % 100;
  if (tens >= 11 && tens <= 13) return `${number}th`;
  return `${number}${["th", "st", "nd", "rd"][number % 10] ?? "th"}`;
}
