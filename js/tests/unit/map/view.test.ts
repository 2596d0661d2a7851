import { expect, test } from "vitest";
import { pendingBoxes, undefinedBoxes } from "../../../src/map/image.ts";
import { cellOf, frameIndex, type Options, pairOf } from "../../../src/map/view.ts";
import { reasonFor } from "../../../src/map/words.ts";
import { exampleForEachTest, LAYERS1, LAYERS2, VALUES } from "../example.ts";

const each = exampleForEachTest();
const viewOf = each.viewOf;

test("all chosen layers in execution order, rows of model 1", () => {
  const view = viewOf();
  expect(view.rows).toMatchObject({ side: 0, names: LAYERS1 });
  expect(view.columns).toMatchObject({ side: 1, names: LAYERS2 });
  expect([...view.values.values]).toEqual(VALUES);
});

test("by name, numbers count as numbers", () => {
  expect(viewOf({ order: "name" }).columns.names).toEqual(["blocks.9", "blocks.10"]);
  expect(viewOf({ order: "name" }).values.values[0]).toBe(0.25);
});

test("transposed, a cell is still the same pair and the same number", () => {
  const view = viewOf({ transpose: true });
  const cell = { row: 1, col: 0 };
  expect(pairOf(view, cell)).toEqual(["conv1", "blocks.9"]);
  expect(cellOf(view, ["conv1", "blocks.9"])).toEqual(cell);
  expect(view.values.values[view.values.cols]).toBe(0.25);
  expect(frameIndex(view, cell)).toBe(1);
});

test("flipped, the first row is the lowest, and a cell is still the same pair", () => {
  const view = viewOf({ flip: true });
  expect(view.rows.names).toEqual([...LAYERS1].reverse());
  expect(view.columns.names).toEqual(LAYERS2);
  const cell = { row: 2, col: 1 };
  expect(pairOf(view, cell)).toEqual(["conv1", "blocks.9"]);
  expect(view.values.values[5]).toBe(0.25);
  expect(frameIndex(view, cell)).toBe(1);
  expect(viewOf({ flip: true, transpose: true }).rows.names).toEqual([
    ...["blocks.9", "blocks.10"],
  ]);
});

test("masks apply to the matrix, however it is drawn", () => {
  const hidden = (options: Partial<Options>) => {
    const view = viewOf({ mask: "upper", ...options });
    const { rows, cols } = view.values;
    return Array.from({ length: rows * cols }, (_, at) => at)
      .filter((at) => view.hides(Math.floor(at / cols), at % cols))
      .map((at) => pairOf(view, { row: Math.floor(at / cols), col: at % cols }));
  };
  expect(hidden({})).toEqual([["conv1", "blocks.9"]]);
  expect(hidden({ flip: true })).toEqual([["conv1", "blocks.9"]]);
  expect(hidden({ mask: "threshold", threshold: 0.5 })).toEqual([
    ["conv1", "blocks.9"],
    ["layer1.0", "blocks.10"],
  ]);
});

test("flipped clusters keep their order and their joins", () => {
  const plain = viewOf({ order: "clustered" });
  const clustered = plain.clustered;
  const first = viewOf({ order: "clustered", clustered, flip: true });
  const again = viewOf({
    ...{ order: "clustered", flip: true, clustered: first.clustered },
  });
  expect(first.rows.names).toEqual([...plain.rows.names].reverse());
  expect(again.rows).toEqual(first.rows);
  plain.rows.branches.forEach(({ middles }, k) => {
    const mirrored = first.rows.branches[k]?.middles;
    expect(mirrored).toEqual(middles.map((middle) => 3 - middle));
  });
});

test("fewer chosen layers show fewer rows, new ones are pending in their places", () => {
  each.session.choice.choose({ 0: ["conv1", "bn1", "fc"] });
  const view = viewOf();
  expect(view.rows.names).toEqual(["conv1", "bn1", "fc"]);
  expect(view.rows.index).toEqual([0, -1, 2]);
  expect(each.session.choice.missingFrom(each.session.frames.shown)).toBe(1);
  expect([...view.values.values]).toEqual([
    ...[0.875, 0.25, Number.NaN, Number.NaN, Number.NaN, Number.NaN],
  ]);
  expect(cellOf(view, ["layer1.0", "blocks.9"])).toBeNull();
  const one = { left: [0], right: [2] };
  expect(pendingBoxes(view)).toEqual({ ...one, top: [1], bottom: [2] });
  expect(undefinedBoxes(view)).toEqual({ ...one, top: [2], bottom: [3] });
  expect(frameIndex(view, { row: 1, col: 0 })).toBe(-1);
  expect(reasonFor(each.session.comparison, view, { row: 1, col: 0 })).toMatch(
    /^Not computed yet/,
  );
});

test("the frame's order of known layers wins over that of the choice", () => {
  each.session.choice.choose({ 0: ["fc", "bn1", "conv1"] });
  expect(viewOf().rows.names).toEqual(["conv1", "bn1", "fc"]);
  expect(viewOf({ order: "clustered" }).rows.names.at(-1)).toBe("bn1");
});

test("before the first frame every chosen cell is pending", () => {
  each.session.frames.shown = null;
  const view = viewOf({ transpose: true });
  expect(view.values).toMatchObject({ rows: 2, cols: 3 });
  expect(pendingBoxes(view)).toEqual({
    ...{ left: [0], right: [3], top: [0], bottom: [2] },
  });
});

test("clustered order stays while frames come in", () => {
  const branches = [{ middles: [0.5, 1.5], heights: [0, 0, 1] }] as const;
  const clustered = [
    { names: ["fc", "conv1", "layer1.0"], branches },
    { names: LAYERS2, branches: [] },
  ] as const;
  const kept = viewOf({ order: "clustered", clustered }).rows;
  expect(kept).toMatchObject(clustered[0]);
  expect([...viewOf({ order: "clustered" }).rows.names].sort()).toEqual(
    [...LAYERS1].sort(),
  );
});
