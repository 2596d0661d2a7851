/** How large the charts are in a given width. Pure arithmetic. */

import type { Geometry } from "./charts.ts";

const MIN_FRAME = 140;
const MAX_FRAME_HEIGHT = 560;
const MIN_FRAME_HEIGHT = 200;
const AXIS_TITLE = 24;
const TICK = 9;
export const FRAME_RIGHT = 10;
export const FRAME_TOP = 6;
/** Room so that the last tick label and the frame's outline are not cut. */
const WIDE_DETAILS = 620;
const LEAST_CHARACTERS = 8;

/** Whether the convergence plot stands beside the words. */
export function isWide(width: number): boolean {
  return width >= WIDE_DETAILS;
}

/** Room for row labels beside the least of maps. */
export function labelRoom(width: number): number {
  return width - asideOf(width) - FRAME_RIGHT - MIN_FRAME - TICK - AXIS_TITLE;
}

/** The most characters with which all names fit, and never so few that they say nothing. */
export function fittingLimit(
  pixelsOf: (limit: number) => number,
  room: number,
  most: number,
): number {
  let limit = most;
  while (limit > LEAST_CHARACTERS && pixelsOf(limit) > room) limit -= 2;
  return limit;
}

function asideOf(width: number): number {
  return Math.round(Math.min(190, Math.max(84, width * 0.22)));
}

export interface Sizes {
  /** Widest row label and longest column label in pixels. */
  readonly rowLabel: number;
  readonly columnLabel: number;
  readonly rows: number;
  readonly cols: number;
}

export function geometryFor(width: number, sizes: Sizes): Geometry {
  const aside = asideOf(width);
  const wanted = Math.ceil(sizes.rowLabel) + TICK + AXIS_TITLE;
  const left = Math.max(52, Math.min(wanted, width - aside - FRAME_RIGHT - MIN_FRAME));
  const bottom = Math.max(48, Math.ceil(sizes.columnLabel) + TICK + AXIS_TITLE);
  const map = width - aside;
  const frame = Math.max(60, map - left - FRAME_RIGHT);
  const square = (frame * sizes.rows) / Math.max(1, sizes.cols);
  const height = Math.round(
    Math.min(MAX_FRAME_HEIGHT, Math.max(MIN_FRAME_HEIGHT, square)),
  );
  const history = {
    width: Math.floor(isWide(width) ? (width - 24) / 2 : width),
    height: 150,
  };
  return { left, bottom, width: map, height, trend: 104, aside, history };
}

/** Width of the widest text in pixels; a guess where there is no canvas. */
export function widest(texts: readonly string[], font: string): number {
  const context = document.createElement("canvas").getContext?.("2d");
  if (!context)
    return 6.5 * texts.reduce((most, text) => Math.max(most, text.length), 0);
  context.font = font;
  return texts.reduce(
    (most, text) => Math.max(most, context.measureText(text).width),
    0,
  );
}
