/** What stands at the axes of a map, and the room it takes. */

import { blockLevels } from "./blocks.ts";
import type { Geometry } from "./charts.ts";
import {
  commonPrefix,
  depthTicks,
  MAX_CHARACTERS,
  shortLabel,
  type TicksOf,
  ticksFor,
  usualPrefix,
} from "./labels.ts";
import {
  fittingLimit,
  geometryFor,
  isWide,
  labelRoom,
  type Sizes,
  widest,
} from "./layout.ts";
import type { AxisView, MapView, Options } from "./map_view.ts";
import { type Axis, bracketsOf, type MarginPlan } from "./margins.ts";
import type { Session } from "./session.ts";
import { shownName } from "./words.ts";

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

/** Names as long as the width allows, and the map in what they leave. */
export function planFor(
  session: Session,
  view: MapView,
  { order, flip }: Options,
  { width, family }: { readonly width: number; readonly family: string },
): Plan {
  const font = `${FONT_PX}px ${family}`;
  const { rows, columns } = view;
  const isDepth = order === "depth";
  const [rowLabels, columnLabels] = [rows, columns].map((axis) =>
    isDepth ? () => [WHOLE_DEPTH] : labelsOf(session, axis),
  ) as [Shortened, Shortened];
  const rowPixels = (limit: number) => widest(rowLabels(limit), font);
  const limit = fittingLimit(rowPixels, labelRoom(width), MAX_CHARACTERS);
  const sizes = {
    rows: view.values.rows,
    cols: view.values.cols,
    rowLabel: rowPixels(limit),
    columnLabel: widest(columnLabels(limit), font),
    rowBlocks: false,
    columnBlocks: false,
    rowTree: rows.branches.length > 0,
    columnTree: columns.branches.length > 0,
    isSquare: isDepth,
  };
  const ticksOf = (axis: AxisView, labels: Shortened): TicksOf => {
    const isFlipped = flip && axis === rows;
    return (...part) =>
      isDepth
        ? depthTicks(axis.names.length, isFlipped, part)
        : ticksFor(labels(limit), ...part);
  };
  return {
    depth: isDepth ? (flip ? "up" : "down") : null,
    rows: axisPlan(session, rows, ticksOf(rows, rowLabels)),
    columns: axisPlan(session, columns, ticksOf(columns, columnLabels)),
    geometry: withBracketsThatFit(width, sizes, view, font),
  };
}

/** A narrow map has no room to spare for brackets that none would be drawn in. */
function withBracketsThatFit(
  width: number,
  sizes: Sizes,
  { rows, columns }: MapView,
  font: string,
): Geometry {
  const blocks = [blockLevels(rows.names), blockLevels(columns.names)] as const;
  const [rowBlocks, columnBlocks] = [blocks[0].length > 0, blocks[1].length > 0];
  const geometry = geometryFor(width, { ...sizes, rowBlocks, columnBlocks });
  if (isWide(width)) return geometry;
  const { left, right, height } = geometry;
  const widthOf = (name: string) => widest([name], font);
  const fits = (k: 0 | 1, size: number, pixels: number) =>
    bracketsOf(blocks[k], [0, size], pixels, widthOf).length > 0;
  return geometryFor(width, {
    ...sizes,
    rowBlocks: fits(0, sizes.rows, height),
    columnBlocks: fits(1, sizes.cols, geometry.width - left - right),
  });
}

function axisPlan(session: Session, axis: AxisView, ticks: TicksOf): AxisPlan {
  const { names, branches, side } = axis;
  const prefix = commonPrefix(names);
  const model = session.meta.names[side - 1] ?? "";
  return {
    ...{ names, branches, title: prefix ? `${model} \u00b7 ${prefix}\u2026` : model },
    ticks,
  };
}

/** The names of an axis with at most so many characters. */
function labelsOf(session: Session, { names, side }: AxisView): Shortened {
  const prefix = commonPrefix(names).length;
  const own = names.map((name) => shownName(session, side, name).slice(prefix));
  const usual = usualPrefix(own);
  return (limit) => own.map((name) => shortLabel(name, usual, limit));
}
