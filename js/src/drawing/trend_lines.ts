/** The lines beside the map, from what the page already has. Pure functions. */

import { type Cell, cellOf, frameIndex, type MapView } from "../map/view.ts";
import { columnOf, extent, rowOf } from "../matrix/matrix.ts";
import type { CellHistory } from "../state/history.ts";
import type { Pins } from "../state/pins.ts";
import type { Theme } from "../ui/theme.ts";
import type { Charts } from "./charts.ts";
import type { PinnedLine, TrendLine } from "./surface.ts";

const DASHES = ["dashed", "dotted", "dashdot", "dotdash"];
const MARKERS = ["triangle", "diamond", "inverted_triangle", "star", "hex", "cross"];
/** As a share of the lower chart's height. */
const LEAST_PADDING = 0.01;
const HALF_A_DOT = 0.03;

type LineOf = (view: MapView, cell: Cell) => TrendLine;

/** What trends are drawn from. */
interface TrendSource {
  readonly view: MapView;
  readonly history: CellHistory;
  readonly pins: Pins;
  readonly theme: Theme;
}

/** Draws row, column and convergence of a cell, with those of the pins beside them. */
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
  charts.setTrend("row", trends && rowLine(view, trends));
  charts.setTrend("column", trends && columnLine(view, trends));
  const line = history && historyLine(view, history);
  charts.setTrend("history", line);
  const pins = [rowLine, columnLine, historyLine].map((lineOf) =>
    pinnedLines(source, lineOf),
  );
  charts.setPins("row", pins[0] ?? []);
  charts.setPins("column", pins[1] ?? []);
  charts.setPins("history", pins[2] ?? []);
  charts.setHistoryRange(
    ...historyRange([...(line ? [line] : []), ...(pins[2] ?? [])]),
  );
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

/** The colors' range, with room below zero and at its end where values are there. */
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
 * Batches and values that hold all lines, with room for their bands: not for more than
 * the last ones if the first are so wide that nothing else would be seen.
 */
export function historyRange(
  lines: readonly TrendLine[],
): [batches: [number, number], values: [number, number]] {
  const values = lines.flatMap(({ value }) => value.filter(Number.isFinite));
  const last = Math.max(1, ...lines.map(({ at }) => at.at(-1) ?? 1));
  if (values.length === 0)
    return [
      [0, last],
      [0, 1],
    ];
  const low = values.reduce((least, number) => Math.min(least, number));
  const high = values.reduce((most, number) => Math.max(most, number));
  const errors = (from: number) =>
    lines.flatMap(({ stderr }) => stderr.slice(from).filter(Number.isFinite));
  const widest = Math.min(
    high - low,
    errors(0).reduce((most, error) => Math.max(most, error), 0),
  );
  const pad = Math.max(LEAST_PADDING, widest, ...errors(-1));
  return [
    [0, 1.02 * last],
    [low - pad, high + pad],
  ];
}
