/**
 * The margins of the map besides its ticks: titles, brackets around the layers of a
 * block, dendrograms. Drawn over BokehJS and sketch alike, and zoomed with them.
 */

import { type Block, blockLevels } from "../matrix/blocks.ts";
import type { Branch } from "../matrix/clusters.ts";
import { svg } from "../ui/dom.ts";
import { widest } from "./layout.ts";
import type { Geometry, Span, Viewport } from "./surface.ts";

/** Pixels from the outer edge to the middle of a title, */
const TITLE = 9;
/** to the middle of a block's name, */
const BLOCK = 27;
/** and to the back of its bracket. */
const BRACKET = 37;
const HOOK = 3;
const GAP = 1.5;
/** Brackets shorter than this on the screen are left out. */
const LEAST_BRACKET = 7;
const LINE_HEIGHT = 12;
const FONT_PX = 11;
export const TITLE_PX = 12;
const BESIDE_FRAME = 4;

export interface Axis {
  readonly title: string;
  readonly names: readonly string[];
  readonly branches: readonly Branch[];
}

interface AxisPair {
  readonly rows: Axis;
  readonly columns: Axis;
}

/** What stands around a map, and where; made by `plan.ts`. */
export interface MarginPlan extends AxisPair {
  readonly geometry: Geometry;
  /** Which way depth runs on the row axis, or null where axes are not depths. */
  readonly depth: "down" | "up" | null;
}

/** A bracket in pixels from the start of its axis, with the name that fits it. */
export interface Bracket {
  readonly from: number;
  readonly to: number;
  readonly name: string;
}

/**
 * Brackets of the visible blocks: those of the first level whose names all fit. If none
 * does, the blocks' names are shortened to their ends, "3" for "blocks.3". If most
 * brackets would then have no name, as with scattered layers, there are none.
 */
export function bracketsOf(
  levels: readonly (readonly Block[])[],
  span: Span,
  pixels: number,
  widthOf: (text: string) => number,
): Bracket[] {
  const fits = ({ name, from, to }: Bracket) =>
    Math.max(widthOf(name), LINE_HEIGHT) <= to - from;
  const found = levels.map((blocks) => visibleBrackets(blocks, span, pixels));
  const fitting = found.find((level) =>
    level.every((bracket) => !bracket.isWhole || fits(bracket)),
  );
  const best = fitting ?? (found[0] ?? []).map(shortened);
  const named = best.filter(fits);
  if (2 * named.length < best.length) return [];
  return best.map((bracket) => (fits(bracket) ? bracket : { ...bracket, name: "" }));
}

function visibleBrackets(
  blocks: readonly Block[],
  [low, high]: Span,
  pixels: number,
): (Bracket & { isWhole: boolean })[] {
  const scale = pixels / Math.max(1e-9, high - low);
  return blocks
    .map(({ name, from, to }) => ({
      name,
      isWhole: from >= low && to <= high,
      from: Math.max(0, (from - low) * scale) + GAP,
      to: Math.min(pixels, (to - low) * scale) - GAP,
    }))
    .filter(({ from, to }) => to - from >= LEAST_BRACKET);
}

function shortened(bracket: Bracket): Bracket {
  return { ...bracket, name: bracket.name.split(".").at(-1) ?? "" };
}

/** The lines of a dendrogram: along its axis, and up to `height` away from it. */
export function dendrogramPath(
  branches: readonly Branch[],
  at: (along: number, away: number) => string,
): string {
  return branches
    .map(({ middles: [first, second], heights: [low1, low2, own] }) => {
      const corners = [
        at(first, low1),
        at(first, own),
        at(second, own),
        at(second, low2),
      ];
      return `M${corners.join("L")}`;
    })
    .join("");
}

export class Margins {
  readonly element = svg("svg", { class: "cka-margins", "aria-hidden": "true" });
  private axes: AxisPair | null = null;
  private blocks: Readonly<Record<"rows" | "columns", Block[][]>> = {
    rows: [],
    columns: [],
  };
  private geometry: Geometry | null = null;
  private depth: "down" | "up" | null = null;
  private font = "";
  private readonly widths = new Map<string, number>();

  set(plan: MarginPlan, font: string): void {
    const { rows, columns, geometry, depth } = plan;
    this.axes = plan;
    this.geometry = geometry;
    this.depth = depth;
    const { rowBrackets, columnBrackets } = geometry;
    this.blocks = {
      rows: rowBrackets ? blockLevels(rows.names) : [],
      columns: columnBrackets ? blockLevels(columns.names) : [],
    };
    if (font !== this.font) this.widths.clear();
    this.font = font;
  }

  draw(viewport: Viewport): void {
    const { axes, geometry } = this;
    if (!axes || !geometry) return;
    const { left, top, height, bottom } = geometry;
    const frame = frameWidth(geometry);
    const foot = top + height + bottom;
    this.element.replaceChildren(
      ...this.titles(axes, geometry),
      ...this.brackets(this.blocks.rows, viewport.rows, height, {
        at: (along, away) => [away, top + along],
        turned: true,
      }),
      ...this.brackets(this.blocks.columns, viewport.cols, frame, {
        at: (along, away) => [left + along, foot - away],
        turned: false,
      }),
      ...this.dendrograms(axes, geometry, viewport),
      ...this.equalDepths(axes, geometry, viewport),
    );
  }

  private titles({ rows, columns }: AxisPair, geometry: Geometry): SVGElement[] {
    const { left, top, width, height, bottom } = geometry;
    const foot = top + height + bottom;
    const half = ((TITLE_PX / FONT_PX) * this.widthOf(columns.title)) / 2;
    const middle = Math.min(left + frameWidth(geometry) / 2, width - half);
    return [
      text(columns.title, middle, foot - TITLE, "cka-axis-title"),
      text(rows.title, TITLE, top + height / 2, "cka-axis-title", true),
    ];
  }

  /** The line along which layers of both models are equally deep. */
  private equalDepths(
    { rows, columns }: AxisPair,
    geometry: Geometry,
    viewport: Viewport,
  ): SVGElement[] {
    if (!this.depth) return [];
    const { left, top, height } = geometry;
    const frame = frameWidth(geometry);
    const [x, y] = [along(viewport.cols, frame), along(viewport.rows, height)];
    const [first, last] = [0, rows.names.length];
    const [from, to] = this.depth === "up" ? [last, first] : [first, last];
    const d = `M${x(0)} ${y(from)}L${x(columns.names.length)} ${y(to)}`;
    return ["cka-halo", "cka-equal-depth"].map((name) =>
      nested(d, name, [left, top, frame, height]),
    );
  }

  private brackets(
    levels: readonly (readonly Block[])[],
    span: Span,
    pixels: number,
    place: { at: (along: number, away: number) => [number, number]; turned: boolean },
  ): SVGElement[] {
    const { at, turned } = place;
    const found = bracketsOf(levels, span, pixels, (name) => this.widthOf(name));
    const corner = (along: number, away: number) =>
      at(along, away).map(tenth).join(" ");
    const d = found
      .map(({ from, to }) => {
        const hooks = [corner(from, BRACKET + HOOK), corner(to, BRACKET + HOOK)];
        return `M${hooks[0]}L${corner(from, BRACKET)}L${corner(to, BRACKET)}L${hooks[1]}`;
      })
      .join("");
    const names = found
      .filter(({ name }) => name !== "")
      .map(({ name, from, to }) => {
        const [x, y] = at((from + to) / 2, BLOCK);
        return text(name, x, y, "cka-block", turned);
      });
    return d ? [svg("path", { class: "cka-bracket", d }), ...names] : [];
  }

  /** Each is clipped to the length of the map, so that a zoomed one ends with it. */
  private dendrograms(
    { rows, columns }: AxisPair,
    geometry: Geometry,
    viewport: Viewport,
  ): SVGElement[] {
    const { left, top, right, width, height } = geometry;
    const frame = frameWidth(geometry);
    const [tall, wide] = [top - BESIDE_FRAME - GAP, right - BESIDE_FRAME - GAP];
    const [x, y] = [along(viewport.cols, frame), along(viewport.rows, height)];
    const above = dendrogramPath(columns.branches, (k, share) =>
      [x(k), tenth(tall - share * (tall - GAP))].join(" "),
    );
    const beside = dendrogramPath(rows.branches, (k, share) =>
      [tenth(share * (wide - GAP)), y(k)].join(" "),
    );
    const edge = width - right + BESIDE_FRAME;
    return [
      ...(above ? [nested(above, "cka-dendrogram", [left, GAP, frame, tall])] : []),
      ...(beside ? [nested(beside, "cka-dendrogram", [edge, top, wide, height])] : []),
    ];
  }

  private widthOf(name: string): number {
    const known = this.widths.get(name);
    if (known !== undefined) return known;
    const width = widest([name], `${FONT_PX}px ${this.font}`);
    this.widths.set(name, width);
    return width;
  }
}

/** Pixels along an axis of which a part is visible. */
function along([low, high]: Span, pixels: number): (at: number) => number {
  return (at) => tenth(((at - low) * pixels) / Math.max(1e-9, high - low));
}

function frameWidth({ left, right, width }: Geometry): number {
  return Math.max(1, width - left - right);
}

/** A path in a box of its own, clipped at its edges. */
function nested(
  d: string,
  name: string,
  [x, y, width, height]: readonly [number, number, number, number],
): SVGElement {
  const lines = svg("path", { class: name, d });
  return svg("svg", { x, y, width, height }, lines);
}

function text(
  words: string,
  x: number,
  y: number,
  name: string,
  turned = false,
): SVGElement {
  const transform = `translate(${tenth(x)} ${tenth(y)})${turned ? " rotate(-90)" : ""}`;
  return svg("text", { class: name, transform, dy: "0.35em" }, words);
}

function tenth(number: number): number {
  return Math.round(10 * number) / 10;
}
