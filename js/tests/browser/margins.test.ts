import { afterEach, expect, test } from "vitest";
import {
  cellCenter,
  choose,
  closeAll,
  deepestAt,
  live,
  type Page,
  ready,
  until,
} from "./page.ts";

afterEach(closeAll);

function blocks(page: Page): { text: string; box: DOMRect }[] {
  return [...page.element.querySelectorAll(".cka-block")].map((block) => ({
    text: block.textContent ?? "",
    box: block.getBoundingClientRect(),
  }));
}

test("the layers of a block have a bracket, also after transposing, zooming and sorting", async () => {
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
