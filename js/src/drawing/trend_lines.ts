/** The trends beside the map, and the convergence of a cell. */

import { type Cell, cellOf, frameIndex, type MapView } from "../map/view.ts";
import { columnOf, extent, rowOf } from "../matrix/matrix.ts";
import type { CellHistory } from "../state/history.ts";
import type { Pins } from "../state/pins.ts";
import type { Theme } from "../ui/theme.ts";
import type { Charts } from "./charts.ts";
import type { PinnedLine, TrendLine } from "./surface.ts";

const DASHES = ["dashed", "dotted", "dashdot", "dotdash"];
const MARKERS = ["triangle", "diamond", "inverted_triangle", "star", "hex", "cross"];
/** In units of the values. */
const LEAST_PADDING = 0.01;
/** As a share of the range: half a dot of the line. */
const HALF_A_DOT = 0.03;

type LineOf = (view: MapView, cell: Cell) => TrendLine;

/** What trends are drawn from. */
interface TrendSource {
  readonly view: MapView;
  readonly history: CellHistory;
  readonly pins: Pins;
  readonly theme: Theme;
}

/** Draws row, column and convergence of a cell, and those of the pinned cells. */
export function drawLines(
  charts: Charts,
  source: TrendSource,
  { trends, history }: { readonly trends: Cell | null; readonly history: Cell | null },
): void {
  const { view } = source;
  const historyLine: LineOf = (_, cell) => {
    const moments = source.history.cell(frameIndex(view, cell));
    return { at: moments.batches, value: moments.values, stderr: moments.stderrs };
  };
  const line = history && historyLine(view, history);
  const historyPins = pinnedLines(source, historyLine);
  charts.setTrend("row", trends && rowLine(view, trends));
  charts.setTrend("column", trends && columnLine(view, trends));
  charts.setTrend("history", line);
  charts.setPins("row", pinnedLines(source, rowLine));
  charts.setPins("column", pinnedLines(source, columnLine));
  charts.setPins("history", historyPins);
  charts.setHistoryRange(...historyRange([...(line ? [line] : []), ...historyPins]));
}

export function rowLine(view: MapView, cell: Cell): TrendLine {
  return {
    at: view.columns.names.map((_, k) => k + 0.5),
    value: [...rowOf(view.values, cell.row)],
    stderr: [...rowOf(view.stderr, cell.row)],
  };
}

export function columnLine(view: MapView, cell: Cell): TrendLine {
  return {
    at: view.rows.names.map((_, k) => k + 0.5),
    value: [...columnOf(view.values, cell.col)],
    stderr: [...columnOf(view.stderr, cell.col)],
  };
}

function pinnedLines({ view, pins, theme }: TrendSource, lineOf: LineOf): PinnedLine[] {
  return pins.pairs.flatMap((pair, k) => {
    const cell = cellOf(view, pair);
    if (!cell) return [];
    const color = theme.pins[k % theme.pins.length] ?? theme.muted;
    const dash = DASHES[k % DASHES.length] ?? "dashed";
    const marker = MARKERS[k % MARKERS.length] ?? "circle";
    return [{ ...lineOf(view, cell), color, dash, marker }];
  });
}

/** The range of the colors, extended to values below it and to dots at its end. */
export function trendRange(
  view: MapView | null,
  [low, high]: readonly [number, number],
): [number, number] {
  const [least, most] = (view && extent(view.values.values)) ?? [low, low];
  const padding = HALF_A_DOT * (high - low);
  const top = Math.abs(most - high) < padding ? high + padding : high;
  return [low > 0 || least >= low ? low : least - LEAST_PADDING, top];
}

/**
 * Ranges of batches and values that hold all lines with their bands. Early bands may be
 * so wide that nothing else would be visible: then only the last ones need to fit.
 */
export function historyRange(
  lines: readonly TrendLine[],
): [batches: [number, number], values: [number, number]] {
  const last = Math.max(1, ...lines.map(({ at }) => at.at(-1) ?? 1));
  const values = lines.flatMap(({ value }) => value.filter(Number.isFinite));
  const low = values.reduce((least, number) => Math.min(least, number), Infinity);
  const high = values.reduce((most, number) => Math.max(most, number), -Infinity);
  if (low > high)
    return [
      [0, last],
      [0, 1],
    ]; // No values.
  const errors = (from: number) =>
    lines.flatMap(({ stderr }) => stderr.slice(from).filter(Number.isFinite));
  const largest = errors(0).reduce((most, error) => Math.max(most, error), 0);
  const pad = Math.max(LEAST_PADDING, Math.min(high - low, largest), ...errors(-1));
  return [
    [0, 1.02 * last],
    [low - pad, high + pad],
  ];
}
