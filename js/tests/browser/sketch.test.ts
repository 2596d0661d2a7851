import { afterEach, expect, test } from "vitest";
import {
  acks,
  choose,
  click,
  closeAll,
  colorAt,
  difference,
  drawn,
  feed,
  makeModel,
  type Page,
  pause,
  point,
  press,
  show,
  text,
  until,
} from "./page.ts";

afterEach(closeAll);

test("without BokehJS the plain map stays and can be read and clicked", async () => {
  const model = makeModel({
    _figure: { ...(makeModel().state._figure as object), version: "1.2.3" },
  });
  const page = show(model);
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

/** A page that gets BokehJS only on request. */
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
  return [page, () => arrive()];
}

test("until BokehJS has loaded the plain map is drawn in the same place", async () => {
  const [page, arrive] = late(difference());
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
  // A line ends in the middle of a corner cell and may or may not be visible there.
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
  await drawn(page);
  expect(model.sentOf("need_bokeh")).toHaveLength(0);
  expect((globalThis as { Bokeh?: unknown }).Bokeh).toBeUndefined();
});
