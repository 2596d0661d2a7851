/** What can be done with a map: save it, mark it, flip it, zoom it. */

import { afterEach, expect, test, vi } from "vitest";
import {
  canvasOf,
  cellCenter,
  choose,
  click,
  closeAll,
  colorAt,
  deepestAt,
  difference,
  feed,
  type Page,
  pause,
  press,
  ready,
  until,
} from "./page.ts";

const EVIL = "<img src=x onerror=b()>";
const BELOW = [42, 157, 143];

async function shown(
  state: Record<string, unknown> = {},
  edit?: (matrix: Float32Array, stderr: Float32Array) => void,
): Promise<Page> {
  const page = await ready(state);
  feed(page, { seq: 1, ...(edit && { edit }) });
  await until(() => page.model.sentOf("ack").length === 1, "ack");
  await pause(150);
  return page;
}

afterEach(closeAll);

/** A small map of known values: 2 layers by 3. */
function small(names1 = ["conv1", "fc"], names2 = ["a", "b", "c"]) {
  const layers = { layers1: names1, layers2: names2 };
  const axes = { epoch: 1, ...layers, undefined1: {}, undefined2: {}, notes: [] };
  return { ...layers, _axes: axes };
}

const SIX = (matrix: Float32Array) => matrix.set([1, 0.5, -0.1, 0, Number.NaN, 0.25]);

/** Presses a save button and catches the file before the browser does. */
async function saved(page: Page, kind: "PNG" | "SVG"): Promise<[string, Blob]> {
  let file: Promise<[string, Blob]> | undefined;
  const catcher = vi
    .spyOn(HTMLAnchorElement.prototype, "click")
    .mockImplementation(function (this: HTMLAnchorElement) {
      const name = this.download;
      file = fetch(this.href).then(async (got) => [name, await got.blob()]);
    });
  press(page, kind);
  await until(() => file, "a file");
  catcher.mockRestore();
  return file as Promise<[string, Blob]>;
}

async function drawing(page: Page): Promise<[string, XMLDocument]> {
  const [name, blob] = await saved(page, "SVG");
  const parsed = new DOMParser().parseFromString(await blob.text(), "image/svg+xml");
  return [name, parsed];
}

const words = (parsed: XMLDocument) =>
  [...parsed.querySelectorAll("text")].map((text) => text.textContent);

test("the saved drawing has the colors of the cells and all words as text", async () => {
  document.body.dataset.jpThemeLight = "false";
  const page = await shown(small(["conv1", EVIL], ["a", "b", "c"]), SIX);
  const [name, parsed] = await drawing(page);
  expect(name).toBe("ResNet-18-ViT-B-16.svg");
  expect(parsed.querySelector("parsererror")).toBeNull();
  const fills = [...parsed.querySelectorAll("svg > svg > g > path")].map((path) => [
    path.getAttribute("fill"),
    path.getAttribute("d"),
  ]);
  expect(fills).toContainEqual(["rgb(251,252,191)", "M0 0H1v1H0z"]);
  expect(fills).toContainEqual([`rgb(${BELOW})`, "M2 0H3v1H2z"]);
  expect(fills).toContainEqual(["rgb(0,0,3)", "M0 1H1v1H0z"]);
  expect(fills).toHaveLength(5);
  const hatched = parsed.querySelectorAll("svg > svg > rect[fill='url(#undefined)']");
  expect(hatched).toHaveLength(1);
  expect(words(parsed)).toEqual(
    expect.arrayContaining([
      ...["conv1", EVIL, "a", "b", "c", "ResNet-18", "ViT-B/16"],
      ...["CKA", "0.00", "0.50", "1.00", "below 0", "undefined"],
    ]),
  );
  expect(parsed.querySelector("img, script, foreignObject, [onerror]")).toBeNull();
  expect(parsed.querySelector("svg > rect")?.getAttribute("fill")).toBe("#ffffff");
  expect(parsed.documentElement.getAttribute("fill")).toBe("#1d2127");
});

test("cells of a difference without an error are grey, and the key says so", async () => {
  const state = { ...small(), ...difference(), palette: "puor" };
  const edit = (matrix: Float32Array, stderr: Float32Array) => {
    SIX(matrix);
    stderr.set([0, 0.1, 0.1, 0, Number.NaN, 0.1]);
  };
  const page = await shown(state, edit);
  const key = page.element.querySelector(".cka-key:has(.cka-exact)");
  expect(key).toMatchObject({ hidden: false, textContent: "standard error 0" });
  for (const row of [0, 1]) {
    expect(colorAt(page, row, 0)).toEqual([119, 119, 119, 255]);
  }
  expect(colorAt(page, 0, 1)).not.toEqual([119, 119, 119, 255]);
  const [, parsed] = await drawing(page);
  const grey = parsed.querySelectorAll("svg > svg > rect[fill='rgb(119, 119, 119)']");
  expect(grey).toHaveLength(1);
  expect(words(parsed)).toContain("std. error 0");
  const plain = await shown(small(), edit);
  expect(plain.element.querySelector(".cka-key:has(.cka-exact)")).toMatchObject({
    hidden: true,
  });
  expect(colorAt(plain, 0, 0)).toEqual([251, 252, 191, 255]);
});

test("the picture has twice the pixels, and the colors where the cells are", async () => {
  const page = await shown(small(), SIX);
  const [name, blob] = await saved(page, "PNG");
  expect(name).toBe("ResNet-18-ViT-B-16.png");
  expect(blob.type).toBe("image/png");
  const bitmap = await createImageBitmap(blob);
  const map = page.element.querySelector(".cka-map") as HTMLElement;
  expect(bitmap.height).toBe(2 * map.clientHeight);
  expect(bitmap.width).toBeGreaterThan(2 * map.clientWidth);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d") as OffscreenCanvasRenderingContext2D;
  context.drawImage(bitmap, 0, 0);
  const box = map.getBoundingClientRect();
  const pixel = (row: number, col: number) => {
    const { x, y } = cellCenter(page, row, col);
    const at = [2 * (x - box.x), 2 * (y - box.y)] as const;
    return [...context.getImageData(...at, 1, 1).data];
  };
  for (const [row, col] of [
    [0, 0],
    [0, 1],
    [0, 2],
    [1, 0],
  ] as const) {
    expect(pixel(row, col)).toEqual(colorAt(page, row, col));
  }
  expect([...context.getImageData(0, 0, 1, 1).data]).toEqual([255, 255, 255, 255]);
});

test("numbers, marks and brackets are saved as shown, the rest is not", async () => {
  const blocks = ["b.0.x", "b.0.y", "b.1.x", "b.1.y"];
  const page = await shown(small(blocks, blocks), (matrix) => {
    matrix.fill(0.5);
    for (const at of [0, 5, 10, 15]) matrix[at] = 0.75;
  });
  const before = (await drawing(page))[1];
  expect(before.querySelector(".mark")).toBeNull();
  expect(words(before).filter((word) => word === "0.50")).toHaveLength(1);
  press(page, "Numbers");
  choose(page, "Marks on the map", "path");
  const [, parsed] = await drawing(page);
  expect(words(parsed).filter((word) => word === "0.50")).toHaveLength(12 + 1);
  expect(words(parsed).filter((word) => word === "0")).toHaveLength(2);
  const line = parsed.querySelector(".mark")?.getAttribute("d") ?? "";
  expect(line.match(/[ML]/g)).toEqual(["M", "L", "L", "L"]);
  choose(page, "Marks on the map", "matches");
  const dots = [...(await drawing(page))[1].querySelectorAll(".mark")].at(-1);
  expect(dots?.getAttribute("d")?.match(/M/g)).toHaveLength(4);
});

test("the drawing is clipped to the zoomed part, with its labels", async () => {
  const page = await shown();
  zoomAt(page, 1, 1);
  await until(() => zoomButton(page)?.hidden === false, "the zoom");
  const [, parsed] = await drawing(page);
  expect(words(parsed)).toContain("layer1.0");
  expect(words(parsed)).not.toContain("fc");
  const frame = parsed.querySelector("svg > svg");
  expect(frame?.getAttribute("overflow")).toBe("hidden");
});

test("the first row is at the bottom when the map is flipped, in all its parts", async () => {
  const page = await shown(small(["conv1", "layer1.0", "fc"], ["a", "b"]), (matrix) =>
    matrix.set([1, 1, 0.5, 0.5, 0, 0]),
  );
  const [bright, , dark] = [0, 1, 2].map((row) => colorAt(page, row, 0));
  press(page, "Flip");
  await until(() => `${colorAt(page, 2, 0)}` === `${bright}`, "row 0 at the bottom");
  expect(colorAt(page, 0, 0)).toEqual(dark);
  press(page, "Table");
  const heads = [...page.element.querySelectorAll("tbody th")];
  expect(heads.map((head) => head.textContent)).toEqual(["fc", "layer1.0", "conv1"]);
  expect(words((await drawing(page))[1]).slice(0, 3)).toEqual(
    expect.arrayContaining(["fc", "layer1.0", "conv1"]),
  );
  choose(page, "Cells left out", "upper");
  await until(() => colorAt(page, 2, 1)[3] === 0, "the upper triangle, from below");
  expect(colorAt(page, 0, 0)[3]).toBe(255);
});

test("values below a threshold can be left out", async () => {
  const page = await shown(small(), SIX);
  choose(page, "Cells left out", "threshold");
  await until(() => colorAt(page, 0, 2)[3] === 0, "the value below 0 is left out");
  expect(colorAt(page, 0, 1)[3]).toBe(255);
  expect(colorAt(page, 1, 2)[3]).toBe(0);
  const input = page.element.querySelector<HTMLInputElement>(
    "[aria-label='Lowest value shown']",
  );
  expect(input?.hidden).toBe(false);
  if (input) input.value = "0,2";
  input?.dispatchEvent(new Event("change"));
  await until(() => colorAt(page, 1, 2)[3] === 255, "0.25 is shown");
});

test("the best path is a line over the map, has a mean, and is copied as a table", async () => {
  const page = await shown(small(["x", "y"], ["a", "b", "c"]), (matrix) =>
    matrix.set([0.25, 0.5, 0, 0, 0.75, 0.5]),
  );
  const between = () => {
    const canvas = canvasOf(page.element, "map");
    const [one, two] = [cellCenter(page, 1, 1), cellCenter(page, 1, 2)];
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    const [x, y] = [(one.x + two.x) / 2 - box.x, one.y - box.y];
    return [
      ...(canvas.getContext("2d")?.getImageData(x * scale, y * scale, 1, 1).data ?? []),
    ];
  };
  choose(page, "Marks on the map", "path");
  await until(() => `${between().slice(0, 3)}` === "255,255,255", "the line");
  expect(page.element.querySelector(".cka-mean")?.textContent).toBe("mean 0.500");
  const write = vi.spyOn(navigator.clipboard, "writeText").mockResolvedValue();
  press(page, "Copy pairs");
  const lines = String(write.mock.lastCall?.[0]).split("\n");
  write.mockRestore();
  expect(lines[0]).toBe("ResNet-18\tViT-B/16\tCKA\tstandard error");
  expect(lines.slice(1, 4).map((line) => line.split("\t").slice(0, 3))).toEqual([
    ["x", "a", "0.25"],
    ["y", "b", "0.75"],
    ["y", "c", "0.5"],
  ]);
});

test("a mark leaves the middle of its cell only for a number", async () => {
  const names = Array.from({ length: 60 }, (_, k) => `layer.${k}`);
  const page = await shown(small(names, names), (matrix) => {
    matrix.fill(0.25);
    for (let k = 0; k < 60; k++) matrix[61 * k] = 0.5;
  });
  press(page, "Numbers");
  choose(page, "Marks on the map", "matches");
  await until(() => colorAt(page, 30, 30)[2] === 255, "a dot in the middle");
  const before = await dotsOf();
  for (let k = 0; k < 4; k++) zoomAt(page, 30, 30);
  await until(() => zoomButton(page)?.hidden === false, "the zoom");
  expect(before).toEqual([0.5]);
  await pause(200);
  expect(await dotsOf()).toEqual([0.2]);
});

test("by depth, both axes are equally long and labelled in percent", async () => {
  const page = await shown();
  choose(page, "Order of the layers", "depth");
  await pause(200);
  const box = page.element.querySelector(".cka-grid")?.getBoundingClientRect();
  expect(Math.abs((box?.width ?? 0) / (box?.height ?? 1) - 1)).toBeLessThan(0.02);
  const texts = words((await drawing(page))[1]);
  expect(texts.filter((text) => text === "50\u202f%")).toHaveLength(2);
  expect(texts).not.toContain("layer1.0");
  const line = page.element.querySelector(".cka-equal-depth")?.getBoundingClientRect();
  expect(line?.width).toBeCloseTo(box?.width ?? 0, 0);
  expect(line?.height).toBeCloseTo(box?.height ?? 0, 0);
});

test("a double click shows the whole map again, and frames leave a zoom as it is", async () => {
  const page = await shown();
  const { rows } = await rangesOf();
  const whole = [rows.start, rows.end];
  zoomAt(page, 3, 4);
  await until(() => zoomButton(page)?.hidden === false, "the zoom");
  const zoomed = [rows.start, rows.end];
  expect(zoomed).not.toEqual(whole);
  for (let seq = 2; seq <= 4; seq++) feed(page, { seq });
  await until(() => page.model.sentOf("ack").at(-1)?.seq === 4, "ack");
  await pause(150);
  expect([rows.start, rows.end]).toEqual(zoomed);
  expect(zoomButton(page)?.hidden).toBe(false);
  click(page, 3, 4);
  click(page, 3, 4);
  await until(() => zoomButton(page)?.hidden, "the whole map");
  expect([rows.start, rows.end]).toEqual(whole);
});

test("a map of 600 x 600 is zoomed and moved without a new layout or image", async () => {
  const names = Array.from({ length: 600 }, (_, k) => `encoder.layer.${k}.out`);
  const page = await shown(small(names, names));
  const { rows, columns, image } = await rangesOf();
  expect([image.shape[0], image.shape[1]]).toEqual([600, 600]);
  const sent = page.model.sent.length;
  let layouts = 0;
  const stage = page.element.querySelector(".cka-stage") as HTMLElement;
  const observer = new MutationObserver((changes) => {
    layouts += changes.length;
  });
  observer.observe(stage, { attributes: true, attributeFilter: ["style"] });
  zoomAt(page, 300, 300);
  await until(() => rows.start - rows.end < 599, "the zoom");
  const height = rows.start - rows.end;
  const before = [rows.start, columns.start];
  drag(page, [330, 330], [300, 290]);
  await until(() => columns.start !== before[1], "the move");
  expect(rows.start).not.toBe(before[0]);
  expect(rows.start - rows.end).toBeCloseTo(height, 3);
  await pause(150);
  expect((await rangesOf()).image).toBe(image);
  expect(page.model.sent.length).toBe(sent);
  expect(layouts).toBe(0);
  const colors = [200, 250, 300, 350, 400].map((k) => colorAt(page, k, 300));
  expect(colors.every((color) => color[3] === 255)).toBe(true);
  expect(new Set(colors.map(String)).size).toBeGreaterThan(2);
  observer.disconnect();
});

interface BokehRange {
  readonly start: number;
  readonly end: number;
}

/** A model of the page's figures, from BokehJS itself. */
async function modelOf<T>(name: string): Promise<T> {
  const key = Symbol.for("cka_notebook.bokehjs");
  const loaded = (globalThis as unknown as Record<symbol, Map<string, unknown>>)[key];
  const [bokeh] = (await Promise.all([...(loaded?.values() ?? [])])) as [
    { documents: { get_model_by_name(name: string): T }[] },
  ];
  return bokeh.documents.at(-1)?.get_model_by_name(name) as T;
}

/** The map's ranges, live, and its image. */
async function rangesOf() {
  const source = await modelOf<{ data: { image: { shape: number[] }[] } }>(
    "map_source",
  );
  return {
    rows: await modelOf<BokehRange>("rows_range"),
    columns: await modelOf<BokehRange>("columns_range"),
    image: source.data.image[0] as { shape: number[] },
  };
}

/** Where the dots of the rows' best matches are within their cells. */
async function dotsOf(): Promise<number[]> {
  const { data } = await modelOf<{ data: { y: number[] } }>("row_matches");
  return [...new Set(data.y.map((y) => Math.round(100 * (y % 1)) / 100))];
}

/** Moves the map with Shift and the mouse. */
function drag(page: Page, from: [number, number], to: [number, number]): void {
  const start = cellCenter(page, ...from);
  const target = deepestAt(start.x, start.y);
  const fire = (type: string, { x, y }: { x: number; y: number }, buttons: number) =>
    target.dispatchEvent(
      new PointerEvent(type, {
        ...{ clientX: x, clientY: y, buttons, button: 0, shiftKey: true },
        ...{ bubbles: true, composed: true, cancelable: true },
        ...{ pointerId: 1, isPrimary: true, pointerType: "mouse" },
      }),
    );
  const end = cellCenter(page, ...to);
  fire("pointerdown", start, 1);
  for (let k = 1; k <= 5; k++) {
    const part = (one: number, other: number) => one + ((other - one) * k) / 5;
    fire("pointermove", { x: part(start.x, end.x), y: part(start.y, end.y) }, 1);
  }
  fire("pointerup", end, 0);
}

function zoomAt(page: Page, row: number, col: number): void {
  const { x, y } = cellCenter(page, row, col);
  const options = { clientX: x, clientY: y, deltaY: -400, ctrlKey: true };
  const wheel = { ...options, bubbles: true, composed: true, cancelable: true };
  deepestAt(x, y).dispatchEvent(new WheelEvent("wheel", wheel));
}

function zoomButton(page: Page): HTMLElement | null {
  return page.element.querySelector("[title^='Show the whole']");
}
