import { afterEach, expect, test } from "vitest";
import { columnsFrom, wireTree } from "../fake.ts";
import {
  acks,
  click,
  closeAll,
  colorAt,
  deep,
  feed,
  live,
  type Page,
  pause,
  ready,
  until,
} from "./page.ts";

afterEach(closeAll);

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

test("nothing overflows the cell at any width", async () => {
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

test("above the map the trees make room for a run, and the map is not drawn again", async () => {
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

test("scrolled away and back, narrowed and widened, the map is painted", async () => {
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
