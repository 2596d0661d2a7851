/** What stands along the axes of a map, and how much room it takes. */

import type { AxisView, MapView, Options } from "../map/view.ts";
import { type Block, blockLevels } from "../matrix/blocks.ts";
import {
  commonPrefix,
  depthTicks,
  ellipsis,
  MAX_CHARACTERS,
  shortLabel,
  type TicksOf,
  ticksFor,
  usualPrefix,
} from "../matrix/labels.ts";
import type { Comparison } from "../state/comparison.ts";
import {
  fittingLimit,
  geometryFor,
  isWide,
  labelRoom,
  type Sizes,
  widest,
} from "./layout.ts";
import { type Axis, bracketsOf, type MarginPlan, TITLE_PX } from "./margins.ts";
import type { Geometry } from "./surface.ts";

const FONT_PX = 11;
const WHOLE_DEPTH = "100\u202f%";

type Shortened = (limit: number) => string[];

export interface AxisPlan extends Axis {
  readonly ticks: TicksOf;
}

export interface Plan extends MarginPlan {
  readonly rows: AxisPlan;
  readonly columns: AxisPlan;
}

/** Names as long as the width allows, and the map in the remaining room. */
export function planFor(
  comparison: Comparison,
  view: MapView,
  { order, flip }: Options,
  { width, family }: { readonly width: number; readonly family: string },
): Plan {
  const font = `${FONT_PX}px ${family}`;
  const isDepth = order === "depth";
  const labels = isDepth
    ? { rows: [WHOLE_DEPTH], columns: [WHOLE_DEPTH] }
    : fittingLabels(comparison, view, width, font);
  const geometry = withBracketsThatFit(width, view, font, {
    rowLabel: widest(labels.rows, font),
    columnLabel: widest(labels.columns, font),
    isSquare: isDepth,
  });
  const axis = (name: "rows" | "columns", pixels: number) => {
    const isFlipped = flip && name === "rows";
    const plan = isDepth
      ? depthAxis(comparison, view[name], isFlipped)
      : namedAxis(comparison, view[name], labels[name]);
    return titled(plan, pixels, family);
  };
  return {
    depth: isDepth ? (flip ? "up" : "down") : null,
    rows: axis("rows", geometry.height),
    columns: axis("columns", geometry.width),
    geometry,
  };
}

/** The axis with its title cut to its own length, so that titles never meet. */
function titled(axis: AxisPlan, pixels: number, family: string): AxisPlan {
  const cut = (limit: number) => ellipsis(axis.title, limit);
  const pixelsOf = (limit: number) => widest([cut(limit)], `${TITLE_PX}px ${family}`);
  return { ...axis, title: cut(fittingLimit(pixelsOf, pixels, axis.title.length)) };
}

/** Names of both axes, cut so that row names leave room for the map. */
function fittingLabels(
  comparison: Comparison,
  { rows, columns }: MapView,
  width: number,
  font: string,
): { rows: string[]; columns: string[] } {
  const [ofRows, ofColumns] = [
    labelsOf(comparison, rows),
    labelsOf(comparison, columns),
  ];
  const room = labelRoom(width, rows.branches.length > 0);
  const rowPixels = (limit: number) => widest(ofRows(limit), font);
  const limit = fittingLimit(rowPixels, room, MAX_CHARACTERS);
  return { rows: ofRows(limit), columns: ofColumns(limit) };
}

/** A narrow map spares no room for brackets if none would fit. */
function withBracketsThatFit(
  width: number,
  { rows, columns, values }: MapView,
  font: string,
  room: Pick<Sizes, "rowLabel" | "columnLabel" | "isSquare">,
): Geometry {
  const [rowBlocks, columnBlocks] = [
    blockLevels(rows.names),
    blockLevels(columns.names),
  ];
  const geometryWith = (hasRowBlocks: boolean, hasColumnBlocks: boolean) =>
    geometryFor(width, {
      ...{ ...room, rows: values.rows, cols: values.cols },
      rowBlocks: hasRowBlocks,
      columnBlocks: hasColumnBlocks,
      rowTree: rows.branches.length > 0,
      columnTree: columns.branches.length > 0,
    });
  const geometry = geometryWith(rowBlocks.length > 0, columnBlocks.length > 0);
  if (isWide(width)) return geometry;
  const frame = geometry.width - geometry.left - geometry.right;
  const widthOf = (name: string) => widest([name], font);
  const fits = (levels: Block[][], size: number, pixels: number) =>
    bracketsOf(levels, [0, size], pixels, widthOf).length > 0;
  return geometryWith(
    fits(rowBlocks, values.rows, geometry.height),
    fits(columnBlocks, values.cols, frame),
  );
}

function namedAxis(
  comparison: Comparison,
  { names, branches, side }: AxisView,
  labels: readonly string[],
): AxisPlan {
  const prefix = commonPrefix(names);
  const model = comparison.names[side];
  return {
    ...{ names, branches, title: prefix ? `${model} \u00b7 ${prefix}\u2026` : model },
    ticks: (from, to, pixels) => ticksFor(labels, from, to, pixels),
  };
}

function depthAxis(
  comparison: Comparison,
  { names, branches, side }: AxisView,
  isFlipped: boolean,
): AxisPlan {
  return {
    ...{ names, branches, title: `${comparison.names[side]} \u00b7 depth` },
    ticks: (...part) => depthTicks(names.length, isFlipped, part),
  };
}

/** The names of an axis, shortened to a number of characters. */
function labelsOf(comparison: Comparison, { names, side }: AxisView): Shortened {
  const prefix = commonPrefix(names).length;
  const own = names.map((name) => comparison.layerName(side, name).slice(prefix));
  const usual = usualPrefix(own);
  return (limit) => own.map((name) => shortLabel(name, usual, limit));
}
