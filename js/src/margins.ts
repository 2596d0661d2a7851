/**
 * What stands around the map besides its ticks: titles, brackets around the layers of a
 * block, dendrograms. Drawn over BokehJS and sketch alike, and zoomed with them.
 */

import { type Block, blockLevels } from "./blocks.ts";
import type { Geometry } from "./charts.ts";
import type { Branch } from "./clusters.ts";
import { widest } from "./layout.ts";

const SVG = "http://www.w3.org/2000/svg";
const TITLE = 9;
/** From the outer edge to the middle of a title, */
const BLOCK = 27;
/** to the middle of a block's name, */
const BRACKET = 37;
/** and to the back of its bracket. */
const HOOK = 3;
const GAP = 1.5;
const LEAST_BRACKET = 7;
/** Brackets that are shorter on the screen are left out. */
const LINE_HEIGHT = 12;
const FONT_PX = 11;
const BESIDE_FRAME = 4;

export type Span = readonly [from: number, to: number];

export interface Axis {
  readonly title: string;
  readonly names: readonly string[];
  readonly branches: readonly Branch[];
}

/** Cells that are in sight, also parts of them. */
export interface Window {
  readonly rows: Span;
  readonly cols: Span;
}

/** A bracket in pixels from the start of its axis, with the name that fits into it. */
export interface Bracket {
  readonly from: number;
  readonly to: number;
  readonly name: string;
}

/**
 * Brackets of what is in sight: of the first level whose names all fit. If none does,
 * the blocks' names are shortened to their ends, "3" for "blocks.3". Brackets of which
 * most would bear no name, as those of scattered layers, are left out.
 */
export function bracketsOf(
  levels: readonly (readonly Block[])[],
  span: Span,
  pixels: number,
  widthOf: (text: string) => number,
): Bracket[] {
  const fits = ({ name, from, to }: Bracket) =>
    Math.max(widthOf(name), LINE_HEIGHT) <= to - from;
  const seen = levels.map((blocks) => inSight(blocks, span, pixels));
  const fitting = seen.find((level) =>
    level.every((bracket) => !bracket.isWhole || fits(bracket)),
  );
  const found = fitting ?? (seen[0] ?? []).map(shortened);
  const named = found.filter(fits);
  if (2 * named.length < found.length) return [];
  return found.map((bracket) => (fits(bracket) ? bracket : { ...bracket, name: "" }));
}

function inSight(
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
  private axes: { readonly rows: Axis; readonly columns: Axis } | null = null;
  private blocks: Readonly<Record<"rows" | "columns", Block[][]>> = {
    rows: [],
    columns: [],
  };
  private geometry: Geometry | null = null;
  private font = "";
  private readonly widths = new Map<string, number>();

  set(axes: { rows: Axis; columns: Axis }, geometry: Geometry, font: string): void {
    this.axes = axes;
    this.geometry = geometry;
    const { rowBrackets, columnBrackets } = geometry;
    this.blocks = {
      rows: rowBrackets ? blockLevels(axes.rows.names) : [],
      columns: columnBrackets ? blockLevels(axes.columns.names) : [],
    };
    if (font !== this.font) this.widths.clear();
    this.font = font;
  }

  draw(window: Window): void {
    const { axes, geometry } = this;
    if (!axes || !geometry) return;
    const { left, top, right, bottom, width, height } = geometry;
    const frame = Math.max(1, width - left - right);
    const foot = top + height + bottom;
    this.element.replaceChildren(
      text(axes.columns.title, left + frame / 2, foot - TITLE, "cka-axis-title"),
      text(axes.rows.title, TITLE, top + height / 2, "cka-axis-title", true),
      ...this.brackets(this.blocks.rows, window.rows, height, {
        at: (along, away) => [away, top + along],
        turned: true,
      }),
      ...this.brackets(this.blocks.columns, window.cols, frame, {
        at: (along, away) => [left + along, foot - away],
        turned: false,
      }),
      ...this.dendrograms(axes, geometry, window),
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
      .map(({ from, to }) =>
        [
          `M${corner(from, BRACKET + HOOK)}`,
          `L${corner(from, BRACKET)}`,
          `L${corner(to, BRACKET)}`,
          `L${corner(to, BRACKET + HOOK)}`,
        ].join(""),
      )
      .join("");
    const names = found
      .filter(({ name }) => name !== "")
      .map(({ name, from, to }) => {
        const [x, y] = at((from + to) / 2, BLOCK);
        return text(name, x, y, "cka-block", turned);
      });
    return d ? [svg("path", { class: "cka-bracket", d }), ...names] : [];
  }

  /** Each in a window of its own, so that a zoomed one ends where the map does. */
  private dendrograms(
    { rows, columns }: { readonly rows: Axis; readonly columns: Axis },
    { left, top, right, width, height }: Geometry,
    window: Window,
  ): SVGElement[] {
    const frame = Math.max(1, width - left - right);
    const [tall, wide] = [top - BESIDE_FRAME - GAP, right - BESIDE_FRAME - GAP];
    const along = (k: number, [low, high]: Span, pixels: number) =>
      tenth(((k - low) * pixels) / (high - low));
    const found: SVGElement[] = [];
    if (columns.branches.length > 0) {
      const d = dendrogramPath(columns.branches, (k, share) =>
        [along(k, window.cols, frame), tenth(tall - share * (tall - GAP))].join(" "),
      );
      found.push(inWindow(d, left, GAP, frame, tall));
    }
    if (rows.branches.length > 0) {
      const d = dendrogramPath(rows.branches, (k, share) =>
        [tenth(share * (wide - GAP)), along(k, window.rows, height)].join(" "),
      );
      found.push(inWindow(d, width - right + BESIDE_FRAME, top, wide, height));
    }
    return found;
  }

  private widthOf(name: string): number {
    const known = this.widths.get(name);
    if (known !== undefined) return known;
    const width = widest([name], `${FONT_PX}px ${this.font}`);
    this.widths.set(name, width);
    return width;
  }
}

function inWindow(
  d: string,
  x: number,
  y: number,
  width: number,
  height: number,
): SVGElement {
  const inner = svg("svg", { x, y, width, height });
  inner.append(svg("path", { class: "cka-dendrogram", d }));
  return inner;
}

function text(
  words: string,
  x: number,
  y: number,
  name: string,
  turned = false,
): SVGElement {
  const transform = `translate(${tenth(x)} ${tenth(y)})${turned ? " rotate(-90)" : ""}`;
  const element = svg("text", { class: name, transform, dy: "0.35em" });
  element.textContent = words;
  return element;
}

function tenth(number: number): number {
  return Math.round(10 * number) / 10;
}

function svg(tag: string, attributes: Record<string, string | number>): SVGElement {
  const element = document.createElementNS(SVG, tag) as SVGElement;
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, String(value));
  }
  return element;
}
