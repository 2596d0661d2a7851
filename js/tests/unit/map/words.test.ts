import { expect, test, vi } from "vitest";
import { bestMatchWords, readout, spoken } from "../../../src/map/words.ts";
import { exampleForEachTest } from "../example.ts";

const each = exampleForEachTest();
const viewOf = each.viewOf;

test("the readout has the ranks of a cell, or why it is undefined", () => {
  expect(readout(each.session.comparison, viewOf(), { row: 0, col: 0 })).toMatchObject({
    names: ["conv1", "blocks.10"],
    value: "0.8750 \u00b1\u202f0.0100",
  });
  const view = viewOf();
  const shown = view.shown && {
    ...view.shown,
    frame: { ...view.shown.frame, step: 0.0039 },
  };
  expect(
    readout(each.session.comparison, { ...view, shown }, { row: 0, col: 0 }).value,
  ).toBe("0.88 \u00b1\u202f0.010");
  const facts = readout(each.session.comparison, viewOf(), { row: 0, col: 0 }).facts;
  expect(facts).toContain("1st of 2 in row \u00b7 1st of 2 in column \u00b7 9 batches");
  expect(
    readout(each.session.comparison, viewOf(), { row: 2, col: 0 }).facts,
  ).toContain("Undefined. fc: constant: all examples give the same activations");
});

test("spoken text has no symbols", () => {
  expect(spoken(each.session.comparison, viewOf(), { row: 1, col: 0 })).toBe(
    "layer1.0 by blocks.10, minus 0.13 plus or minus 0.030",
  );
});

test("the best match names both layers, and an undefined row has none", () => {
  expect(
    bestMatchWords(each.session.comparison, viewOf(), { row: 0, col: 1 }, "row"),
  ).toEqual({
    of: "conv1",
    match: "blocks.10",
    rest: "(0.875\u00a0\u00b1\u202f0.010)",
  });
  expect(
    bestMatchWords(each.session.comparison, viewOf(), { row: 2, col: 0 }, "row"),
  ).toBeNull();
  vi.spyOn(each.session.comparison, "isSelf", "get").mockReturnValue(true);
  const view = viewOf();
  const itself = { ...view, columns: { ...view.columns, names: ["conv1", "fc"] } };
  const best = bestMatchWords(
    each.session.comparison,
    itself,
    { row: 0, col: 0 },
    "row",
  );
  expect(best?.match).toBe("fc");
});
