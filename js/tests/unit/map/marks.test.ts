import { expect, test } from "vitest";
import { markedCells, marksOf, matchCells, meanAt } from "../../../src/map/marks.ts";
import { type Options, pairOf } from "../../../src/map/view.ts";
import { exampleForEachTest } from "../example.ts";

const each = exampleForEachTest();
const viewOf = each.viewOf;

test("best matches are those of rows and columns, never masked cells or the layer itself", () => {
  const both = [
    { row: 0, col: 0 },
    { row: 1, col: 1 },
  ];
  expect(matchCells(viewOf(), false)).toEqual({
    ofRows: both,
    ofColumns: both,
  });
  const masked = matchCells(viewOf({ mask: "diagonal" }), false);
  expect(masked.ofRows).toEqual([
    { row: 0, col: 1 },
    { row: 1, col: 0 },
  ]);
  const view = viewOf();
  const columns = { ...view.columns, names: ["conv1", "fc"] };
  expect(matchCells({ ...view, columns }, true).ofRows).toEqual([
    { row: 0, col: 1 },
    { row: 1, col: 1 },
  ]);
});

test("the best path runs through computed layers as executed, in any order", () => {
  const cells = (options: Partial<Options>, inOrder = true) => {
    const view = viewOf(options);
    const of = { isSelf: false, isInOrder: inOrder };
    const marks = marksOf(view, "path", of);
    return { marks, pairs: markedCells(marks).map((cell) => pairOf(view, cell)) };
  };
  const pairs = [
    ["conv1", "blocks.10"],
    ["layer1.0", "blocks.9"],
    ["fc", "blocks.9"],
  ];
  expect(cells({}).pairs).toEqual(pairs);
  expect(cells({ flip: true }).pairs).toEqual(pairs);
  expect(cells({ transpose: true }).pairs).toEqual(pairs);
  const byName = cells({ order: "name" }, false);
  expect(byName.pairs).toEqual(pairs);
  expect(byName.marks.path).toEqual([]);
  expect(cells({ mask: "diagonal" }).pairs).not.toEqual(pairs);
  each.session.choice.choose({ 0: ["conv1", "bn1", "layer1.0", "fc"] });
  expect(cells({}).pairs).toEqual(pairs);
  const view = viewOf();
  const marks = marksOf(view, "path", { isSelf: false, isInOrder: true });
  expect(meanAt(view, markedCells(marks))).toBe(0.6875);
});
