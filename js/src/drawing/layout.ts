/** Sizes of the charts in a given width. Pure arithmetic. */

import type { Geometry } from "./surface.ts";

const MIN_FRAME = 140;
const MAX_FRAME_HEIGHT = 560;
const MIN_FRAME_HEIGHT = 200;
const AXIS_TITLE = 24;
const TICK = 9;
/** Keeps the last tick label and the frame's outline from being cut. */
const FRAME_RIGHT = 10;
const FRAME_TOP = 6;
/** Brackets with the names of blocks, between an axis title and its labels. */
const BRACKETS = 20;
/** Below this width the map needs the room of the row brackets. */
const BRACKETS_FROM = 440;
const DENDROGRAM = 26;
/** Row labels may take this many pixels, or this share of the width if that is more. */
const LABELS = 100;
const LABEL_SHARE = 0.2;
/** They get this many pixels in any width; the map gives way. */
const LEAST_LABELS = 50;
const WIDE_DETAILS = 620;
const LEAST_CHARACTERS = 4;

/** Whether the convergence plot stands beside the words. */
export function isWide(width: number): boolean {
  return width >= WIDE_DETAILS;
}

/** Whether brackets have room beside the row labels. */
export function hasRowBrackets(width: number): boolean {
  return width >= BRACKETS_FROM;
}

/** Room for row labels: what the smallest map leaves, within limits. */
export function labelRoom(width: number, rowTree: boolean): number {
  const brackets = hasRowBrackets(width) ? BRACKETS : 0;
  const map = width - asideOf(width) - rightOf(rowTree) - MIN_FRAME;
  const left = map - TICK - AXIS_TITLE - brackets;
  const most = Math.max(LABELS, LABEL_SHARE * width);
  return Math.max(LEAST_LABELS, Math.min(left, most));
}

/** The most characters with which all names fit, but enough to tell names apart. */
export function fittingLimit(
  pixelsOf: (limit: number) => number,
  room: number,
  most: number,
): number {
  if (most <= LEAST_CHARACTERS || pixelsOf(most) <= room) return most;
  let [least, tooMany] = [LEAST_CHARACTERS, most];
  while (tooMany - least > 1) {
    const middle = (least + tooMany) >> 1;
    if (pixelsOf(middle) <= room) least = middle;
    else tooMany = middle;
  }
  return least;
}

/** The trend beside the map gets a share of the width, a larger one of a small width. */
function asideOf(width: number): number {
  const narrow = Math.min(84, width / 4);
  return Math.round(Math.min(190, Math.max(60, narrow, width * 0.22)));
}

function rightOf(rowTree: boolean): number {
  return FRAME_RIGHT + (rowTree ? DENDROGRAM : 0);
}

export interface Sizes {
  /** Widest row label and longest column label in pixels. */
  readonly rowLabel: number;
  readonly columnLabel: number;
  readonly rows: number;
  readonly cols: number;
  /** Whether layers are grouped into blocks, and whether they have a dendrogram. */
  readonly rowBlocks: boolean;
  readonly columnBlocks: boolean;
  readonly rowTree: boolean;
  readonly columnTree: boolean;
  /** Whether both axes are equally long, however many layers they have. */
  readonly isSquare: boolean;
}

export function geometryFor(width: number, sizes: Sizes): Geometry {
  const aside = asideOf(width);
  const map = width - aside;
  const borders = bordersOf(width, sizes);
  const frame = Math.max(60, map - borders.left - borders.right);
  const tall = sizes.isSquare ? frame : (frame * sizes.rows) / Math.max(1, sizes.cols);
  const height = Math.min(MAX_FRAME_HEIGHT, Math.max(MIN_FRAME_HEIGHT, tall));
  const history = {
    width: Math.floor(isWide(width) ? (width - 24) / 2 : width),
    height: 150,
  };
  const charts = { width: map, height: Math.round(height), trend: 104, aside, history };
  return { ...borders, ...charts };
}

type Borders = Pick<
  Geometry,
  "left" | "right" | "top" | "bottom" | "rowBrackets" | "columnBrackets"
>;

function bordersOf(width: number, sizes: Sizes): Borders {
  const rowBrackets = sizes.rowBlocks && hasRowBrackets(width);
  const columnBrackets = sizes.columnBlocks;
  const beside = TICK + AXIS_TITLE + (rowBrackets ? BRACKETS : 0);
  const below = TICK + AXIS_TITLE + (columnBrackets ? BRACKETS : 0);
  return {
    left: Math.max(52, Math.ceil(sizes.rowLabel) + beside),
    right: rightOf(sizes.rowTree),
    top: FRAME_TOP + (sizes.columnTree ? DENDROGRAM : 0),
    bottom: Math.max(48, Math.ceil(sizes.columnLabel) + below),
    rowBrackets,
    columnBrackets,
  };
}

/** Width of the widest text in pixels; an estimate where there is no canvas. */
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
