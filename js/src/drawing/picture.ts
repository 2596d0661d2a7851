/** The map as it is shown, saved as a drawing (SVG) or as a picture (PNG). */

import type { Box, MapImage } from "../map/image.ts";
import { HALO, type Marks, strokesOf } from "../map/marks.ts";
import type { Numbers } from "../map/numbers.ts";
import type { Cell, MapView } from "../map/view.ts";
import { paint, rgbOf } from "../ui/colors.ts";
import { h, set, svg } from "../ui/dom.ts";
import { value } from "../ui/format.ts";
import type { Plan } from "./plan.ts";
import { ABOVE_NUMBER, type Viewport } from "./surface.ts";

export type PictureKind = "png" | "svg";

/** Everything that makes up the map on the screen. */
export interface Drawn {
  readonly view: MapView;
  readonly plan: Plan;
  readonly viewport: Viewport;
  /** Titles, brackets and dendrograms around the map. */
  readonly margins: SVGElement;
  readonly colors: {
    readonly palette: readonly string[];
    readonly below: string;
    readonly exact: string;
  };
  readonly image: MapImage;
  readonly numbers: Numbers;
  readonly marks: Marks;
  readonly metric: string;
  readonly font: string;
}

/** The light colors of our style sheet: prints are light, whatever the page is. */
export const INK = {
  raised: "#ffffff",
  text: "#1d2127",
  muted: "#5b636e",
  line: "#d5d9e0",
  control: "#7f8793",
} as const;

const PNG_SCALE = 2;
const LEGEND = 92;
const BAR = 12;
const GAP = 6;
const KEY = 16;
const TICK = 3;
/** The download may first ask where to put the file. */
const URL_LIFETIME_MS = 60_000;

/** Saves the map as a file with that name, in light colors. */
export async function savePicture(
  drawn: Drawn,
  name: string,
  kind: PictureKind,
): Promise<void> {
  const picture = pictureOf(drawn);
  // Control characters are not allowed in XML.
  const text = new XMLSerializer().serializeToString(picture).replace(/\p{Cc}/gu, " ");
  const drawing = new Blob([text], { type: "image/svg+xml" });
  const file = kind === "svg" ? drawing : await pngOf(drawing);
  const href = URL.createObjectURL(file);
  const stem = name.replace(/[^\p{L}\p{N}_.-]+/gu, "-");
  h("a", { href, download: `${stem}.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), URL_LIFETIME_MS);
}

async function pngOf(drawing: Blob): Promise<Blob> {
  const image = new Image();
  image.src = URL.createObjectURL(drawing);
  await image.decode();
  URL.revokeObjectURL(image.src);
  const canvas = h("canvas", {
    width: PNG_SCALE * image.width,
    height: PNG_SCALE * image.height,
  });
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error(TOO_LARGE))));
  });
}

const TOO_LARGE =
  "The browser cannot make a picture of this size. Save the map as SVG.";

/** The map as an SVG with all names as text. */
function pictureOf(drawn: Drawn): SVGSVGElement {
  const { geometry } = drawn.plan;
  const width = Math.ceil(geometry.width + LEGEND);
  const height = Math.ceil(geometry.top + geometry.height + geometry.bottom);
  const box = { width, height, viewBox: `0 0 ${width} ${height}` };
  return svg(
    "svg",
    { ...box, "font-family": drawn.font, "font-size": 11, fill: INK.text },
    definitions(drawn),
    svg("rect", { width, height, fill: INK.raised }),
    inside(drawn),
    axes(drawn),
    around(drawn),
    legend(drawn),
  );
}

/** The frame in pixels, and where in it a row or column is. */
function frameOf({ plan, viewport }: Drawn) {
  const { left, top, right, width, height } = plan.geometry;
  const size = { width: Math.max(1, width - left - right), height };
  const scale = {
    x: size.width / (viewport.cols[1] - viewport.cols[0]),
    y: height / (viewport.rows[1] - viewport.rows[0]),
  };
  const x = (col: number) => tenth((col - viewport.cols[0]) * scale.x);
  const y = (row: number) => tenth((row - viewport.rows[0]) * scale.y);
  return { left, top, ...size, scale, x, y };
}

function definitions({ colors: { palette } }: Drawn): SVGElement {
  const upright = { x1: 0, y1: 1, x2: 0, y2: 0 };
  const stops = gradientStops(palette);
  return svg(
    "defs",
    {},
    svg("linearGradient", { id: "colors", ...upright }, ...stops),
    ...hatches(),
  );
}

function gradientStops(palette: readonly string[]): SVGElement[] {
  const last = palette.length - 1;
  return palette.flatMap((color, k) =>
    k % 15 === 0 || k === last
      ? [svg("stop", { offset: k / last, "stop-color": color })]
      : [],
  );
}

/** Fills for undefined cells and for those that are not computed. */
function hatches(): SVGElement[] {
  const tile = { width: 8, height: 8, patternUnits: "userSpaceOnUse" };
  const tint = (opacity: number) =>
    svg("rect", { width: 8, height: 8, fill: INK.muted, opacity });
  const slashes = { d: "M-2 2L2-2M0 8L8 0M6 10L10 6", stroke: INK.muted, opacity: 0.5 };
  const dot = { cx: 4, cy: 4, r: 1, fill: INK.muted, opacity: 0.5 };
  return [
    svg("pattern", { id: "undefined", ...tile }, tint(0.12), svg("path", slashes)),
    svg("pattern", { id: "pending", ...tile }, tint(0.06), svg("circle", dot)),
  ];
}

/** The contents of the frame, clipped at its edges. */
function inside(drawn: Drawn): SVGElement {
  const { left, top, width, height, scale } = frameOf(drawn);
  const { viewport, image, colors } = drawn;
  const transform =
    `scale(${scale.x} ${scale.y}) ` +
    `translate(${-viewport.cols[0]} ${-viewport.rows[0]})`;
  const cells = { transform, "shape-rendering": "crispEdges" };
  return svg(
    "svg",
    { x: left, y: top, width, height, overflow: "hidden" },
    svg("g", cells, ...cellPaths(drawn)),
    ...boxes(drawn, "url(#undefined)", image.boxes.undefined),
    ...boxes(drawn, "url(#pending)", image.boxes.pending),
    ...boxes(drawn, colors.exact, image.boxes.exact),
    ...numbers(drawn),
    ...marks(drawn),
  );
}

/** Cells by color: stretches of one color within a row are one rectangle. */
function cellPaths({ view, image, colors }: Drawn): SVGElement[] {
  const { rows, cols } = view.values;
  const bytes = new Uint8ClampedArray(4 * rows * cols);
  paint(bytes, image.values, {
    palette: colors.palette.map(rgbOf),
    below: rgbOf(colors.below),
    limits: image.limits,
  });
  const codes = new Uint32Array(bytes.buffer);
  const paths = new Map<number, string[]>();
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; ) {
      const from = col;
      const code = codes[row * cols + from] as number;
      while (col < cols && codes[row * cols + col] === code) col += 1;
      const path = paths.get(code) ?? [];
      paths.set(code, path);
      path.push(`M${from} ${row}H${col}v1H${from}z`);
    }
  }
  paths.delete(0); // Transparent: no value.
  return [...paths].map(([code, path]) =>
    svg("path", { fill: fillOf(code), d: path.join("") }),
  );
}

/** The color of a pixel, whose bytes are red, green, blue and opacity. */
function fillOf(code: number): string {
  const bytes = new Uint8Array(Uint32Array.of(code).buffer);
  return `rgb(${bytes.subarray(0, 3)})`;
}

function boxes(drawn: Drawn, fill: string, edges: Box): SVGElement[] {
  const { x, y } = frameOf(drawn);
  return edges.left.map((left, k) => {
    const [right = 0, top = 0, bottom = 0] = [
      edges.right[k],
      edges.top[k],
      edges.bottom[k],
    ];
    const corner = { x: x(left), y: y(top) };
    const size = { width: x(right) - x(left), height: y(bottom) - y(top) };
    return svg("rect", { ...corner, ...size, fill });
  });
}

function numbers(drawn: Drawn): SVGElement[] {
  const { x, y } = frameOf(drawn);
  const { text, color, x: cols, y: rows } = drawn.numbers;
  return text.map((words, k) =>
    write(words, x(cols[k] ?? 0), y(rows[k] ?? 0), {
      "text-anchor": "middle",
      fill: color[k],
    }),
  );
}

function marks(drawn: Drawn): SVGElement[] {
  const { x, y } = frameOf(drawn);
  const lift = drawn.numbers.text.length > 0 ? ABOVE_NUMBER : 0.5;
  const at = ({ row, col }: Cell) => [x(col + 0.5), y(row + lift)] as const;
  return strokesOf(drawn.marks, at).map(({ width, ...line }) =>
    svg("path", {
      ...{ class: "mark", ...line },
      ...{ "stroke-width": width, "stroke-linejoin": "round" },
    }),
  );
}

function axes(drawn: Drawn): SVGElement {
  const { left, top, width, height, x, y } = frameOf(drawn);
  const { plan, viewport } = drawn;
  const foot = top + height;
  const rows = plan.rows.ticks(...viewport.rows, height).labels;
  const columns = plan.columns.ticks(...viewport.cols, width).labels;
  const ticks = [
    ...[...rows.keys()].map((at) => `M${left} ${top + y(at)}h${-TICK}`),
    ...[...columns.keys()].map((at) => `M${left + x(at)} ${foot}v${TICK}`),
  ];
  const line = { fill: "none", stroke: INK.line };
  const end = { "text-anchor": "end" };
  const rowLabels = [...rows].map(([at, text]) =>
    write(text, left - GAP, top + y(at), end),
  );
  const columnLabels = [...columns].map(([at, text]) =>
    write(text, left + x(at), foot + GAP, end, true),
  );
  const frame = svg("rect", { x: left, y: top, width, height, ...line });
  const tickMarks = svg("path", { d: ticks.join(""), ...line });
  return svg("g", {}, frame, tickMarks, ...rowLabels, ...columnLabels);
}

/** A copy of the page's margins, with their styles as attributes. */
function around({ margins }: Drawn): SVGElement {
  const copies = [...margins.childNodes].map((node) => node.cloneNode(true));
  const group = svg("g", { fill: INK.muted, "text-anchor": "middle" }, ...copies);
  for (const path of group.querySelectorAll("path")) {
    set(path, { fill: "none", stroke: INK.control });
  }
  for (const path of group.querySelectorAll(".cka-halo")) {
    set(path, { stroke: HALO, "stroke-opacity": 0.5 });
  }
  for (const path of group.querySelectorAll(".cka-equal-depth")) {
    set(path, { stroke: "#ffffff", "stroke-dasharray": "5 4" });
  }
  for (const title of group.querySelectorAll(".cka-axis-title")) {
    set(title, { "font-size": 12 });
  }
  return group;
}

/** The color bar with its values, and keys for cells without a color in it. */
function legend(drawn: Drawn): SVGElement {
  const { top, height } = frameOf(drawn);
  const left = drawn.plan.geometry.width + GAP;
  const [low, high] = drawn.image.limits;
  const digits = high - low < 0.1 ? 3 : 2;
  const shares = [0, 0.25, 0.5, 0.75, 1];
  const middle = { "text-anchor": "middle" };
  const bar = { x: left, y: top, width: BAR, height };
  return svg(
    "g",
    {},
    svg("rect", { ...bar, fill: "url(#colors)", stroke: INK.line }),
    ...shares.map((share) => {
      const level = top + height * (1 - share);
      return write(value(low + share * (high - low), digits), left + BAR + GAP, level);
    }),
    write(drawn.metric, left + BAR + 44, top + height / 2, middle, true),
    ...keys(drawn, left, top + height),
  );
}

function keys({ image, colors }: Drawn, x: number, foot: number): SVGElement[] {
  const known = [
    [image.hasNegative, colors.below, "below 0"],
    [image.boxes.exact.left.length > 0, colors.exact, "std. error 0"],
    [image.boxes.undefined.left.length > 0, "url(#undefined)", "undefined"],
    [image.boxes.pending.left.length > 0, "url(#pending)", "not computed"],
  ] as const;
  const size = { width: BAR, height: 10, stroke: INK.line };
  return known
    .filter(([isShown]) => isShown)
    .flatMap(([, fill, words], k) => {
      const level = foot + KEY * (k + 1);
      return [
        svg("rect", { x, y: level - 5, ...size, fill }),
        write(words, x + BAR + GAP, level, { fill: INK.muted }),
      ];
    });
}

/** Text centered on its line. */
function write(
  words: string,
  x: number,
  y: number,
  attributes: Record<string, unknown> = {},
  turned = false,
): SVGElement {
  const transform = `translate(${tenth(x)} ${tenth(y)})${turned ? " rotate(-90)" : ""}`;
  return svg("text", { transform, dy: "0.35em", ...attributes }, words);
}

function tenth(number: number): number {
  return Math.round(10 * number) / 10;
}
