import { afterEach, expect, test, vi } from "vitest";
import {
  acks,
  cellCenter,
  choose,
  click,
  closeAll,
  colorAt,
  deepestAt,
  feed,
  live,
  pause,
  point,
  ready,
  text,
  until,
} from "./page.ts";

afterEach(closeAll);

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

test("Shift-click pins a cell, and the pin can be removed", async () => {
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

test("arrow keys move over the map and announce cells, Enter focuses", async () => {
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

test("the notebook does not receive our keys, except those with Ctrl", async () => {
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

test("the table shows the values as text, and copies have full names", async () => {
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
