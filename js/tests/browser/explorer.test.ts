import { afterEach, expect, test, vi } from "vitest";
import { columnsFrom, vitColumns, wireHistory, wireTree } from "../fake.ts";
import {
  cellCenter,
  choose,
  click,
  colorAt,
  deep,
  deepestAt,
  feed,
  makeModel,
  type Page,
  pause,
  point,
  press,
  secondView,
  show,
  until,
} from "./page.ts";

const open: Page[] = [];

async function ready(state: Record<string, unknown> = {}): Promise<Page> {
  const page = show(makeModel(state));
  open.push(page);
  await drawn(page);
  return page;
}

function drawn(page: Page, element = page.element): Promise<void> {
  const waiting = () => element.querySelector<HTMLElement>(".cka-waiting")?.hidden;
  return until(waiting, "the map is not drawn");
}

const text = (page: Page, selector: string) =>
  page.element.querySelector(selector)?.textContent ?? "";
const acks = (page: Page) => page.model.sentOf("ack");

async function live(page: Page, frames = 5): Promise<void> {
  for (let seq = 1; seq <= frames; seq++) feed(page, { seq, batch: 8 * seq });
  await until(
    () => acks(page).at(-1)?.seq === frames,
    "the last frame is acknowledged",
  );
  await pause(150);
}

afterEach(() => {
  for (const page of open.splice(0)) page.close();
  document.body.removeAttribute("data-jp-theme-light");
  document.body.removeAttribute("style");
});

test("frames become colors, row 0 at the top, bright for similar", async () => {
  const page = await ready();
  feed(page, {
    seq: 1,
    edit: (matrix) => {
      matrix.fill(0.5);
      matrix[0] = 1;
      matrix[10 * 15] = 0;
      matrix[14] = -0.1;
    },
  });
  await until(() => acks(page).length === 1, "ack");
  await until(() => colorAt(page, 0, 0)[0] === 251, "the first cell is painted");
  expect(colorAt(page, 0, 0).slice(0, 3)).toEqual([251, 252, 191]);
  expect(colorAt(page, 10, 0).slice(0, 3)).toEqual([0, 0, 3]);
  expect(colorAt(page, 0, 14).slice(0, 3)).toEqual([42, 157, 143]);
  expect(text(page, ".cka-progress-line")).toContain(
    "1/157 batches \u00b7 128 examples",
  );
});

test("undefined cells are hatched and say why when pointed at", async () => {
  const page = await ready();
  const axes = page.model.state._axes as Record<string, unknown>;
  const layers1 = axes.layers1 as string[];
  page.model.put({
    _axes: { ...axes, undefined1: { [layers1[3] as string]: "constant" } },
  });
  feed(page, { seq: 1, edit: (matrix) => matrix.fill(Number.NaN, 45, 60) });
  await until(() => acks(page).length === 1, "ack");
  await pause(200);
  point(page, 3, 4);
  await until(() => text(page, ".cka-read-facts").includes("constant"), "the reason");
  expect(text(page, ".cka-read-facts")).toContain("Undefined. layer2.0: constant");
  expect(page.element.querySelector(".cka-key:not([hidden])")?.textContent).toBe(
    "undefined",
  );
});

test("pointing reads both layers, the value, its error and its ranks", async () => {
  const page = await ready();
  await live(page);
  point(page, 2, 3);
  await until(() => text(page, ".cka-read-names").includes("layer1.1"), "the readout");
  expect(text(page, ".cka-read-names")).toMatch(
    /^layer1\.1×blocks\.20\.\d{4} ±\u202f0\.\d{4}$/,
  );
  expect(text(page, ".cka-read-facts")).toMatch(
    /^BasicBlock 64×56×56 × Block 197×768 · \d+\w\w of 15 in row · \d+\w\w of 11 in column · 40 batches/,
  );
});

test("a click focuses a cell: one message, trends, best matches, convergence", async () => {
  const page = await ready();
  await live(page);
  click(page, 5, 7);
  await until(() => page.model.sentOf("focus").length > 0, "focus message");
  expect(page.model.sentOf("focus")).toEqual([
    { kind: "focus", focus: ["layer3.0", "blocks.6"] },
  ]);
  expect(text(page, ".cka-row-caption")).toBe("layer3.0 of ResNet-18 against ViT-B/16");
  expect(text(page, ".cka-column-caption")).toContain("blocks.6 of ViT-B/16");
  expect(text(page, ".cka-focus-value")).toMatch(/^0\.\d{3}$/);
  expect(text(page, ".cka-sentences")).toMatch(
    /^Best match of layer3\.0 is blocks\.\d+ \(/,
  );
  expect(page.element.querySelector(".cka-away")).toBeNull();
});

test("best matches are marked in the map when asked for, above numbers", async () => {
  const page = await ready();
  const best = (matrix: Float32Array) => {
    matrix.fill(0.25);
    matrix[2 * 15 + 4] = 0.5;
  };
  feed(page, { seq: 1, edit: best });
  await until(() => acks(page).length > 0, "ack");
  await pause(150);
  const plain = colorAt(page, 2, 4);
  const toggle = (label: string) =>
    [...page.element.querySelectorAll("button")]
      .find((button) => button.textContent === label)
      ?.click();
  choose(page, "Marks on the map", "matches");
  await until(() => colorAt(page, 2, 4)[2] === 255, "a white dot");
  toggle("Numbers");
  await until(() => colorAt(page, 2, 4)[2] !== 255, "the dot above the number");
  choose(page, "Marks on the map", "none");
  toggle("Numbers");
  await until(() => `${colorAt(page, 2, 4)}` === `${plain}`, "the cell as it was");
});

test("Shift-click pins a series and the pin can be let go", async () => {
  const page = await ready();
  await live(page);
  click(page, 2, 2, { shiftKey: true });
  await until(() => text(page, ".cka-pins") !== "", "a pin");
  expect(text(page, ".cka-pins")).toContain("layer1.1 \u00d7 blocks.1");
  expect(page.model.sentOf("focus")).toHaveLength(0);
  page.element.querySelector<HTMLElement>(".cka-pin button")?.click();
  expect(text(page, ".cka-pins")).toBe("");
});

test("Python's focus is shown, and that of a layer that is not shown is not", async () => {
  const page = await ready();
  await live(page);
  page.model.put({ focus: ["fc", "head"] });
  expect(text(page, ".cka-row-caption")).toContain("fc of ResNet-18");
  page.model.put({ focus: ["bn1", "head"] });
  expect(text(page, ".cka-row-caption")).toContain("Click a cell");
});

test("arrow keys move over the map, speak, and Enter focuses", async () => {
  const page = await ready();
  await live(page);
  const grid = page.element.querySelector("[role=grid]") as HTMLElement;
  grid.focus();
  const press = (key: string) =>
    grid.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  press("ArrowDown");
  press("ArrowRight");
  const said =
    page.element.querySelector(".cka-grid-layer [aria-live]")?.textContent ?? "";
  expect(said).toMatch(/^layer1\.0 by blocks\.0, 0\.\d\d plus or minus 0\.\d{3}$/);
  const active = grid.getAttribute("aria-activedescendant") as string;
  const cell = document.getElementById(active);
  expect(cell?.getAttribute("aria-colindex")).toBe("2");
  expect(cell?.parentElement?.getAttribute("aria-rowindex")).toBe("2");
  press("Enter");
  expect(page.model.sentOf("focus").at(-1)?.focus).toEqual(["layer1.0", "blocks.0"]);
  press("Escape");
  expect(page.model.sentOf("focus").at(-1)?.focus).toBeNull();
});

test("the notebook hears none of our keys, but its own with Ctrl", async () => {
  const page = await ready();
  const heard: string[] = [];
  const listen = (event: KeyboardEvent) => heard.push(event.key);
  document.body.addEventListener("keydown", listen);
  const grid = page.element.querySelector("[role=grid]") as HTMLElement;
  for (const init of [{ key: "b" }, { key: "x" }, { key: "s", ctrlKey: true }]) {
    grid.dispatchEvent(new KeyboardEvent("keydown", { ...init, bubbles: true }));
  }
  document.body.removeEventListener("keydown", listen);
  expect(heard).toEqual(["s"]);
});

test("the wheel scrolls the page, and zooms only with Ctrl", async () => {
  const page = await ready();
  await live(page);
  const { x, y } = cellCenter(page, 4, 4);
  const zoomButton = page.element.querySelector<HTMLElement>(
    "[title^='Show the whole']",
  );
  const wheel = (ctrlKey: boolean) => {
    const event = new WheelEvent("wheel", {
      ...{ clientX: x, clientY: y, deltaY: -240, bubbles: true, composed: true },
      cancelable: true,
      ctrlKey,
    });
    deepestAt(x, y).dispatchEvent(event);
    return event.defaultPrevented;
  };
  expect(wheel(false)).toBe(false);
  expect(zoomButton?.hidden).toBe(true);
  expect(wheel(true)).toBe(true);
  await until(() => zoomButton?.hidden === false, "the zoom button");
  feed(page, { seq: 9 });
  await until(() => acks(page).at(-1)?.seq === 9, "ack");
  expect(zoomButton?.hidden).toBe(false);
  zoomButton?.click();
  expect(zoomButton?.hidden).toBe(true);
});

test("a theme that changes is followed without drawing anew", async () => {
  document.body.dataset.jpThemeLight = "true";
  const page = await ready();
  await live(page);
  const root = page.element.querySelector(".cka") as HTMLElement;
  const canvas = deep(page.element.querySelector(".cka-map"), "canvas");
  expect(root.dataset.theme).toBe("light");
  document.body.dataset.jpThemeLight = "false";
  await until(() => root.dataset.theme === "dark", "dark");
  expect(deep(page.element.querySelector(".cka-map"), "canvas")).toBe(canvas);
});

test.each([
  ["dark", "true", "rgb(227, 230, 234)"],
  ["light", "false", "rgb(29, 33, 39)"],
])("%s by wish wins over the page around until it is taken back", async (...given) => {
  const [theme, isPageLight, text] = given;
  document.body.dataset.jpThemeLight = isPageLight;
  document.body.style.setProperty("--jp-ui-font-color1", "rgb(1, 2, 3)");
  const page = await ready({ theme });
  await live(page);
  const root = page.element.querySelector(".cka") as HTMLElement;
  const shown = () => [root.dataset.theme, getComputedStyle(root).color];
  expect(shown()).toEqual([theme, text]);
  page.model.put({ theme: "auto" });
  expect(root.dataset.theme).not.toBe(theme);
  page.model.put({ theme });
  expect(shown()).toEqual([theme, text]);
});

test.each([
  ["rgb(250, 250, 250)", "light"],
  ["color(srgb 1 1 1)", "light"],
  ["color(display-p3 0.1 0.1 0.1)", "dark"],
])("on paper of %s the explorer is %s", async (paper, theme) => {
  document.body.style.background = paper;
  const page = await ready();
  expect((page.element.querySelector(".cka") as HTMLElement).dataset.theme).toBe(theme);
});

test("a second view shows the same cell, and closing it leaves the first", async () => {
  const page = await ready();
  await live(page);
  const second = secondView(page);
  await drawn(page, second.element);
  click(page, 1, 1);
  const caption = () => second.element.querySelector(".cka-row-caption")?.textContent;
  await until(() => caption()?.includes("layer1.0"), "the focus in the second view");
  feed(page, { seq: 7 });
  await until(() => acks(page).at(-1)?.seq === 7, "ack");
  expect(acks(page).at(-1)?.views).toBe(2);
  second.close();
  feed(page, { seq: 8 });
  await until(() => acks(page).at(-1)?.seq === 8, "ack");
  expect(acks(page).at(-1)?.views).toBe(1);
  expect(second.element.childElementCount).toBe(0);
});

test("an ended run is drawn from the traits, with no kernel", async () => {
  const source = makeModel();
  const { layers1, layers2 } = source.state as Record<string, string[]>;
  const size = (layers1?.length ?? 0) * (layers2?.length ?? 0);
  const values = new Float32Array(size).fill(0.5);
  values[0] = 1;
  const [history, codes] = wireHistory([[40, 0.75, 0.03]], size, 1);
  const page = await ready({
    status: "done",
    focus: ["conv1", "patch_embed"],
    _matrix: new DataView(values.buffer),
    _stderr: new DataView(new Float32Array(size).fill(0.01).buffer),
    _history: codes,
    _snapshot: {
      header: {
        ...{ kind: "frame", seq: 3, epoch: 1, batch: 157, total: 157, examples: 9984 },
        ...{ skipped: 1, seconds: 131, rate: 0, max_stderr: 0.01, final: true },
        rows: layers1?.length,
        cols: layers2?.length,
      },
      history,
    },
  });
  await pause(200);
  expect(colorAt(page, 1, 1).slice(0, 3)).not.toEqual([0, 0, 0]);
  expect(text(page, ".cka-focus-value")).toBe("1.000");
  expect(text(page, ".cka-progress-line")).toBe(
    "157/157 batches \u00b7 9\u202f984 examples \u00b7 1 skipped \u00b7 02:11 \u00b7 mean 0.503 \u00b7 largest \u00b1\u202f0.010",
  );
  expect(text(page, ".cka-badge")).toBe("Done");
});

test("fewer layers are shown at once, missing ones are asked for in words", async () => {
  const page = await ready({ status: "running" });
  await live(page);
  page.model.put({ status: "done" });
  const boxOf = (label: string) =>
    page.element.querySelector<HTMLElement>(`[aria-label^='${label},'] .cka-box`);
  boxOf("layer1")?.click();
  expect(page.model.sentOf("layers").at(-1)?.layers1).not.toContain("layer1.0");
  const grid = page.element.querySelector("[role=grid]");
  expect(grid?.getAttribute("aria-rowcount")).toBe("9");
  expect(text(page, ".cka-missing")).toBe("");
  boxOf("bn1")?.click();
  expect(grid?.getAttribute("aria-rowcount")).toBe("10");
  expect(text(page, ".cka-missing")).toContain("1 chosen layer is not computed yet");
  point(page, 1, 3);
  await until(
    () => text(page, ".cka-read-facts").includes("Not computed yet: Run"),
    "the reason",
  );
  expect(text(page, ".cka-read-names")).toContain("bn1");
  expect(text(page, ".cka-legend")).toContain("not computed yet");
  expect(text(page, ".cka-primary")).toBe("Run 1 new layer");
  page.element.querySelector<HTMLElement>(".cka-primary")?.click();
  expect(page.model.sentOf("command").at(-1)?.name).toBe("run");
});

test("transposing swaps rows and columns but not what is sent", async () => {
  const page = await ready();
  await live(page);
  const button = [...page.element.querySelectorAll("button")].find(
    (element) => element.textContent === "Transpose",
  );
  button?.click();
  const grid = page.element.querySelector("[role=grid]");
  expect(grid?.getAttribute("aria-rowcount")).toBe("15");
  expect(grid?.getAttribute("aria-label")).toContain(
    "15 layers of ViT-B/16 by 11 layers",
  );
  grid?.dispatchEvent(
    new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }),
  );
  grid?.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  expect(page.model.sentOf("focus").at(-1)?.focus).toEqual(["conv1", "blocks.0"]);
});

function blocks(page: Page): { text: string; box: DOMRect }[] {
  return [...page.element.querySelectorAll(".cka-block")].map((block) => ({
    text: block.textContent ?? "",
    box: block.getBoundingClientRect(),
  }));
}

test("layers of a block are under a bracket, through transposing, zoom and orders", async () => {
  const page = await ready();
  await live(page);
  const stages = ["layer1", "layer2", "layer3", "layer4"];
  const texts = () => blocks(page).map(({ text }) => text);
  expect(texts()).toEqual([...stages, "blocks"]);
  const map = page.element.querySelector(".cka-grid")?.getBoundingClientRect();
  const found = blocks(page);
  for (const { box } of found.slice(0, 4)) {
    expect(box.right).toBeLessThan(map?.left ?? 0);
    expect(box.height).toBeGreaterThan(box.width);
  }
  expect(found[4]?.box.top).toBeGreaterThan(map?.bottom ?? 0);
  found.slice(1, 4).forEach(({ box }, k) => {
    expect(box.top).toBeGreaterThanOrEqual(found[k]?.box.bottom ?? 0);
  });
  const { x, y } = cellCenter(page, 1, 1);
  const options = { clientX: x, clientY: y, deltaY: -400, ctrlKey: true };
  const wheel = { ...options, bubbles: true, composed: true, cancelable: true };
  deepestAt(x, y).dispatchEvent(new WheelEvent("wheel", wheel));
  await until(() => !texts().includes("layer4"), "the zoom");
  expect(texts()).toContain("layer1");
  const press = (words: string) =>
    [...page.element.querySelectorAll("button")]
      .find((button) => button.textContent === words)
      ?.click();
  press("Whole map");
  press("Transpose");
  await until(() => texts()[0] === "blocks", "the swapped axes");
  expect(texts()).toEqual(["blocks", ...stages]);
});

test("a clustered map has its dendrograms at two edges, and room for them", async () => {
  const page = await ready();
  await live(page);
  const trees = () => page.element.querySelectorAll<SVGElement>(".cka-dendrogram");
  expect(trees()).toHaveLength(0);
  choose(page, "Order of the layers", "clustered");
  await until(() => trees().length === 2, "the dendrograms");
  const map = page.element.querySelector(".cka-grid")?.getBoundingClientRect();
  const [columns, rows] = [...trees()].map((tree) => tree.getBoundingClientRect());
  expect(columns?.bottom).toBeLessThanOrEqual(map?.top ?? 0);
  expect(rows?.left).toBeGreaterThanOrEqual(map?.right ?? 0);
  expect(columns?.width).toBeGreaterThan(0.8 * (map?.width ?? 1));
  expect(rows?.height).toBeGreaterThan(0.8 * (map?.height ?? 1));
  choose(page, "Order of the layers", "execution");
  await until(() => trees().length === 0, "the end of the dendrograms");
});

test("no BokehJS anywhere: the plain map stays, is read and clicked", async () => {
  const model = makeModel({
    _figure: { ...(makeModel().state._figure as object), version: "1.2.3" },
  });
  const page = show(model);
  open.push(page);
  await until(() => model.sentOf("need_bokeh").length > 0, "the question");
  expect(model.sentOf("need_bokeh")).toEqual([
    { kind: "need_bokeh", version: "1.2.3" },
  ]);
  model.message({ kind: "bokehjs", version: "1.2.3" }, [
    new DataView(new ArrayBuffer(8)),
  ]);
  await until(() => text(page, ".cka-waiting").includes("cannot be drawn"), "words");
  expect(page.element.querySelectorAll("[role=treeitem]").length).toBeGreaterThan(10);
  feed(page, {
    seq: 1,
    edit: (matrix) => {
      matrix.fill(0.5);
      matrix[0] = 1;
    },
  });
  await until(() => colorAt(page, 0, 0, "sketch")[0] === 251, "the plain map");
  expect(colorAt(page, 0, 0, "sketch").slice(0, 3)).toEqual([251, 252, 191]);
  point(page, 2, 3);
  await until(() => text(page, ".cka-read-names").includes("layer1.1"), "the readout");
  click(page, 5, 7);
  expect(page.model.sentOf("focus").at(-1)?.focus).toEqual(["layer3.0", "blocks.6"]);
  expect(text(page, ".cka-focus-value")).toBe("0.500");
});

/** A page that gets BokehJS when it is told to. */
function late(state: Record<string, unknown> = {}): [Page, arrive: () => void] {
  const model = makeModel(state);
  const { widget_manager: manager } = model;
  delete (globalThis as Record<symbol, unknown>)[Symbol.for("cka_notebook.bokehjs")];
  let arrive = () => {};
  const arrived = new Promise<void>((resolve) => {
    arrive = resolve;
  });
  model.widget_manager = {
    get_model: async (id) => {
      await arrived;
      return (manager as NonNullable<typeof manager>).get_model(id);
    },
  };
  const page = show(model);
  open.push(page);
  return [page, () => arrive()];
}

test("until BokehJS is there the map is drawn plainly, in the very same place", async () => {
  const [page, arrive] = late({ metric: "cka difference" });
  const { layers2 } = page.model.state._axes as Record<string, string[]>;
  const grey = 4 * (layers2?.length ?? 0) + 9;
  feed(page, { seq: 1, edit: (_, stderr) => stderr.fill(0, grey, grey + 1) });
  await until(() => acks(page).length === 1, "ack");
  await pause(100);
  const places = [
    [0, 0],
    [10, 14],
    [4, 9],
  ] as const;
  const look = (slot: string) =>
    places.map(([row, col]) => colorAt(page, row, col, slot));
  const height = page.element.clientHeight;
  const plain = look("sketch");
  expect(plain.every((color) => color[3] === 255)).toBe(true);
  expect(plain[2]).toEqual([119, 119, 119, 255]);
  arrive();
  await drawn(page);
  await until(() => colorAt(page, 0, 0)[3] === 255, "the map of BokehJS");
  expect(look("map")).toEqual(plain);
  expect(page.element.querySelector(".cka-sketch")).toBeNull();
  expect(Math.abs(page.element.clientHeight - height)).toBeLessThan(4);
});

test.each([
  ["as executed", "execution", [], [4, 8, 13, 14]],
  ["from below", "execution", ["Flip"], [1, 2, 4, 8]],
  ["by depth, turned, from below", "depth", ["Transpose", "Flip"], [7, 11, 13, 14]],
  ["by name, as cells", "name", [], [1, 4, 6, 7, 9, 13]],
])("the best path is drawn plainly, too: %s", async (_, order, buttons, found) => {
  const names = { layers1: ["a", "d", "c", "b"], layers2: ["x", "y", "z", "w"] };
  const axes = { epoch: 1, ...names, undefined1: {}, undefined2: {}, notes: [] };
  const [page, arrive] = late({ ...names, _axes: axes });
  const edit = (matrix: Float32Array) => {
    matrix.fill(0.25);
    for (const at of [0, 4, 8, 13, 14, 15]) matrix[at] = 0.75;
  };
  feed(page, { seq: 1, edit });
  await until(() => acks(page).length === 1, "ack");
  choose(page, "Order of the layers", order);
  for (const label of buttons) press(page, label);
  // A line ends in the middle of a corner, so that it may or may not be seen there.
  const cells = [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14];
  const look = (slot: string) =>
    cells.map((at) => `${colorAt(page, Math.floor(at / 4), at % 4, slot)}`);
  await pause(100);
  const before = look("sketch");
  choose(page, "Marks on the map", "path");
  await pause(100);
  const covered = (slot: string) =>
    look(slot).flatMap((color, k) => (color === before[k] ? [] : [cells[k]]));
  expect(covered("sketch")).toEqual(found);
  arrive();
  await drawn(page);
  await until(() => colorAt(page, 0, 0)[3] === 255, "the map of BokehJS");
  expect(covered("map")).toEqual(found);
});

test("a page loads BokehJS once, apart from the page's own", async () => {
  const model = makeModel();
  delete model.widget_manager;
  const page = show(model);
  open.push(page);
  await drawn(page);
  expect(model.sentOf("need_bokeh")).toHaveLength(0);
  expect((globalThis as { Bokeh?: unknown }).Bokeh).toBeUndefined();
});

test("at no width does anything stick out of the cell", async () => {
  const page = await ready({ status: "done" });
  const { layers1 = [] } = page.model.state as Record<string, string[]>;
  await live(page, 2);
  feed(page, {
    seq: 3,
    edit: (matrix) => matrix.fill(Number.NaN, 0, 5).fill(-0.1, 5, 9),
  });
  await until(() => acks(page).at(-1)?.seq === 3, "ack");
  page.model.put({ layers1: [...layers1, "bn1", "a".repeat(150)] });
  click(page, 2, 2);
  const root = page.element.querySelector(".cka") as HTMLElement;
  for (const width of [1060, 1000, 980, 900, 760, 700, 640, 560, 380]) {
    page.element.style.width = `${width}px`;
    await pause(250);
    expect(root.scrollWidth, `at ${width}`).toBeLessThanOrEqual(root.clientWidth);
  }
});

function partsOf(page: Page) {
  const part = (selector: string) =>
    page.element.querySelector(selector) as HTMLElement;
  return {
    side: part(".cka-side"),
    trees: part(".cka-trees"),
    map: part(".cka-map"),
    bar: part(".cka-tree-bar"),
    toggle: part(".cka-layers"),
  };
}

test("in a narrow tree columns give way to names, and parameters are the last", async () => {
  const long = "self_attention_output_projection";
  const facts = { params: 590592, shape: [null, 197, 768] };
  const rows = ["q", "query_projection", "attention_output", long].map((name) => ({
    name,
    type: "NonDynamicallyQuantizableLinear",
    ...facts,
  }));
  rows.push({ name: `${long}_`, type: "Identity", params: 0, shape: [] });
  const tree = columnsFrom([{ name: "", type: "Net", ...facts }, ...rows], {});
  const wire = wireTree(tree);
  const page = await ready({ _trees: { model1: wire, model2: wire } });
  const seen = (row: HTMLElement, column: string) => {
    const cell = row.querySelector(`.cka-${column}`) as HTMLElement;
    return cell.getBoundingClientRect().top < row.getBoundingClientRect().bottom;
  };
  const first = page.element.querySelector(".cka-tree") as HTMLElement;
  const shown = [...first.querySelectorAll<HTMLElement>(".cka-row")];
  expect(shown[0]?.parentElement?.clientWidth).toBeLessThan(300);
  for (const row of shown) {
    const name = row.querySelector(".cka-name") as HTMLElement;
    expect(name.scrollWidth, name.textContent).toBeLessThanOrEqual(name.clientWidth);
  }
  const columns = ["params", "shape", "type"];
  expect(shown.slice(1).map((row) => columns.map((of) => seen(row, of)))).toEqual([
    [true, true, true],
    [true, true, false],
    [true, true, false],
    [true, false, false],
    [true, false, false],
  ]);
});

test("a narrow cell puts the trees above the map, a tiny one folds them", async () => {
  const page = await ready({ status: "done" });
  await live(page);
  const root = page.element.querySelector(".cka") as HTMLElement;
  const { side, trees, map, bar, toggle } = partsOf(page);
  page.element.style.width = "700px";
  await until(() => root.classList.contains("cka-slim"), "slim");
  await pause(300);
  const above = () =>
    side.getBoundingClientRect().bottom <= map.getBoundingClientRect().top;
  expect(above()).toBe(true);
  page.element.style.width = "420px";
  await until(() => trees.offsetHeight === 0, "folded trees");
  expect(toggle.offsetHeight).toBe(0);
  expect(bar.getAttribute("aria-expanded")).toBe("false");
  bar.click();
  expect(trees.offsetHeight).toBeGreaterThan(300);
  expect(above()).toBe(true);
  page.element.style.width = "1000px";
  await pause(300);
  expect(bar.offsetHeight).toBe(0);
  toggle.click();
  expect(side.offsetHeight).toBe(0);
  await until(() => map.clientWidth > 700, "the map takes the room");
});

test("above the map the trees make room for a run, and the map is not drawn anew", async () => {
  const page = await ready({ status: "idle" });
  page.element.style.width = "700px";
  const { trees, map, bar } = partsOf(page);
  await until(() => bar.offsetHeight > 0, "slim");
  await pause(300);
  await live(page);
  const [top, canvas, color] = [
    map.getBoundingClientRect().top,
    deep(map, "canvas"),
    colorAt(page, 2, 3),
  ];
  page.model.put({ status: "running" });
  expect(trees.offsetHeight).toBe(0);
  expect(map.getBoundingClientRect().top).toBeLessThan(top - 300);
  expect(bar.textContent).toBe("11 of 59 layers \u00d7 15 of 115 layers");
  expect(deep(map, "canvas")).toBe(canvas);
  expect(colorAt(page, 2, 3)).toEqual(color);
  await pause(300);
  expect(deep(map, "canvas")).toBe(canvas);
  expect(colorAt(page, 2, 3)).toEqual(color);
});

test("the head of the narrowest cell has no line for one button", async () => {
  const page = await ready();
  for (const width of [420, 380, 340]) {
    page.element.style.width = `${width}px`;
    await pause(250);
    const orders = page.element.querySelector(".cka-orders") as HTMLElement;
    const buttons = [...orders.querySelectorAll<HTMLElement>("button")];
    const shown = buttons.filter((button) => button.offsetHeight > 0);
    const tops = shown.map((button) => button.getBoundingClientRect().top);
    expect(new Set(tops).size, `at ${width}`).toBe(1);
  }
});

test("mirroring chooses the same names in the other tree, and undo brings back", async () => {
  const tree = wireTree(vitColumns());
  const trees = { model1: tree, model2: tree };
  const page = await ready({ _trees: trees, layers1: [] });
  const names = () => page.element.querySelectorAll(".cka-tree-count")[0]?.textContent;
  expect(names()).toBe("0 of 115 layers");
  const [, second] = page.element.querySelectorAll<HTMLElement>(".cka-tree");
  second?.querySelector<HTMLElement>("[aria-label^='Mirror']")?.click();
  expect(names()).toBe("15 of 115 layers");
  expect(page.model.sentOf("layers")).toEqual([
    { kind: "layers", layers1: page.model.state.layers2 },
  ]);
  second?.querySelector<HTMLElement>("[aria-label^='Undo']")?.click();
  expect(page.model.sentOf("layers")).toHaveLength(2);
  expect(names()).toBe("0 of 115 layers");
});

test("hidden and shown again, the map is still painted", async () => {
  const page = await ready();
  await live(page);
  const before = colorAt(page, 2, 2);
  page.element.style.display = "none";
  await pause(100);
  feed(page, { seq: 20, batch: 100 });
  await until(() => acks(page).at(-1)?.seq === 20, "ack while hidden");
  page.element.style.display = "";
  await pause(400);
  expect(colorAt(page, 2, 2)[3]).toBe(255);
  expect(colorAt(page, 2, 2)).not.toEqual([0, 0, 0, 0]);
  expect(before[3]).toBe(255);
});

test("60 frames a second of 200 x 200 leave the last one shown", async () => {
  const names = Array.from({ length: 200 }, (_, k) => `encoder.layer.${k}`);
  const page = await ready({
    layers1: names,
    layers2: names,
    _axes: { epoch: 1, layers1: names, layers2: names, notes: [] },
  });
  for (let seq = 1; seq <= 60; seq++) {
    feed(page, { seq });
    await pause(5);
  }
  await until(() => acks(page).at(-1)?.seq === 60, "the last frame is acknowledged");
  expect(text(page, ".cka-progress-line")).toContain("60/157 batches");
});

test("a model whose classes and names are markup shows them as text", async () => {
  const evil = "<img src=x onerror='globalThis.broken=1'>";
  const columns = vitColumns(3);
  const name = columns.name.map((own) => (own === "norm" ? evil : own));
  const layers2 = [evil, "head"];
  const base = makeModel().state;
  const page = await ready({
    _trees: {
      model1: (base._trees as { model1: unknown }).model1,
      model2: { ...columns, name },
    },
    layers2,
    _axes: { ...(base._axes as object), layers2 },
    _message: { kind: "error", text: evil },
  });
  await live(page);
  click(page, 1, 0);
  point(page, 1, 0);
  await until(() => text(page, ".cka-read-names").includes(evil), "the name as text");
  expect(deep(page.element, "img")).toBeNull();
  expect((globalThis as { broken?: number }).broken).toBeUndefined();
  expect(text(page, ".cka-message")).toContain(evil);
});

test("no kernel: the last state stays, is read and clicked, and a line says so", async () => {
  const page = await ready();
  await live(page);
  page.element.querySelector<HTMLElement>(".cka-primary")?.click();
  const said = () => text(page, ".cka-message").includes("No answer from the kernel");
  await until(said, "the line");
  point(page, 2, 3);
  await until(() => text(page, ".cka-read-names").includes("layer1.1"), "the readout");
  click(page, 5, 7);
  expect(text(page, ".cka-row-caption")).toContain("layer3.0 of ResNet-18");
  expect(colorAt(page, 5, 7)[3]).toBe(255);
});

test("notes are one line until more is asked for", async () => {
  const page = await ready();
  const axes = page.model.state._axes as object;
  const notes = ["Some layers are left out.", "The batches are not random: rho = 5."];
  page.model.put({ _axes: { ...axes, notes } });
  await live(page);
  const box = [...page.element.querySelectorAll<HTMLElement>(".cka-message")].at(-1);
  const paragraphs = [...(box?.querySelectorAll("p") ?? [])];
  const shown = () =>
    paragraphs.filter((p) => p.offsetHeight > 0).map((p) => p.textContent);
  expect(shown()).toEqual([notes[1]]);
  const button = box?.querySelector("button");
  expect(button?.textContent).toBe("1 more");
  button?.click();
  expect(shown()).toEqual([notes[1], notes[0]]);
});

test("the table shows the values as text, and what is copied is named in full", async () => {
  const page = await ready();
  await live(page);
  const button = (label: string) =>
    [...page.element.querySelectorAll("button")].find((b) => b.textContent === label);
  button("Table")?.click();
  expect(page.element.querySelectorAll("td[data-at]")).toHaveLength(11 * 15);
  expect(text(page, "td[data-at]")).toMatch(/^0\.\d{3} \u00b1\u202f0\.\d{3}$/);
  const write = vi.spyOn(navigator.clipboard, "writeText").mockResolvedValue();
  page.element.querySelector<HTMLElement>("td[data-at='3 2']")?.click();
  expect(text(page, ".cka-row-caption")).toContain("layer2.0 of ResNet-18");
  button("Copy")?.click();
  expect(write.mock.lastCall?.[0]).toMatch(
    /^ResNet-18 layer2\.0 \u00d7 ViT-B\/16 blocks\.1: CKA 0\.\d{4} /,
  );
  await until(() => button("Copied"), "the button says so");
  const grid = page.element.querySelector("[role=grid]");
  const init = { key: "c", ctrlKey: true, bubbles: true };
  grid?.dispatchEvent(new KeyboardEvent("keydown", init));
  expect(write).toHaveBeenCalledTimes(2);
  button("Copy as code")?.click();
  expect(write.mock.lastCall?.[0]).toMatch(/\n\)\.compare\(loader\)$/);
  write.mockRestore();
});

test("scrolled away and back, squeezed and widened, the pixels are there", async () => {
  const page = await ready();
  await live(page);
  const spacer = document.createElement("div");
  spacer.style.height = "6000px";
  document.body.append(spacer);
  const whole = (where: string) => {
    for (const [row, col] of [
      [0, 0],
      [5, 7],
      [10, 14],
    ] as const) {
      expect(colorAt(page, row, col)[3], `${where}: ${row}, ${col}`).toBe(255);
    }
  };
  window.scrollTo(0, 5000);
  await pause(300);
  feed(page, { seq: 8, edit: (matrix) => matrix.fill(1) });
  await until(() => acks(page).at(-1)?.seq === 8, "ack");
  window.scrollTo(0, 0);
  await pause(300);
  whole("scrolled");
  expect(colorAt(page, 10, 0).slice(0, 3)).toEqual([251, 252, 191]);
  for (const width of ["520px", "60px", "1000px"]) {
    page.element.style.width = width;
    await pause(400);
    if (width !== "60px") whole(width);
  }
  const parent = page.element.parentElement as HTMLElement;
  page.element.remove();
  await pause(200);
  feed(page, { seq: 9, edit: (matrix) => matrix.fill(0) });
  await until(() => acks(page).at(-1)?.seq === 9, "ack");
  parent.append(page.element);
  await pause(400);
  whole("put back");
  expect(colorAt(page, 0, 0).slice(0, 3)).toEqual([0, 0, 3]);
  spacer.remove();
});
