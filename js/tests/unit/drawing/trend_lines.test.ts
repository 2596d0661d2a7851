import { expect, test } from "vitest";
import { historyRange, trendRange } from "../../../src/drawing/trend_lines.ts";
import { exampleForEachTest } from "../example.ts";

const each = exampleForEachTest();
const viewOf = each.viewOf;

test("trends reach below zero where values do, else they keep the range of the colors", () => {
  expect(trendRange(viewOf(), [0, 1])).toEqual([-0.135, 1]);
  expect(trendRange(viewOf(), [0.25, 0.75])).toEqual([0.25, 0.75]);
  expect(trendRange(viewOf(), [-0.5, 1])).toEqual([-0.5, 1]);
  expect(trendRange(viewOf(), [-0.5, 0.875])).toEqual([-0.5, expect.closeTo(0.916)]);
  expect(trendRange(null, [0, 1])).toEqual([0, 1]);
});

test("the convergence plot holds bands, but not a first band that is too wide", () => {
  const cone = { at: [2, 8, 32], value: [0.5, 0.7, 0.6], stderr: [0.15, 0.07, 0.04] };
  const [, [low, high]] = historyRange([cone]);
  expect([low, high]).toEqual([expect.closeTo(0.35), expect.closeTo(0.85)]);
  const [, wild] = historyRange([{ ...cone, stderr: [9, 0.07, 0.04] }]);
  expect(wild).toEqual([expect.closeTo(0.3), expect.closeTo(0.9)]);
});

test("the convergence plot holds all lines with their last bands", () => {
  const line = { at: [1, 50], value: [0.5, 0.7], stderr: [Number.NaN, 0.1] };
  const [batches, values] = historyRange([line, { ...line, value: [0.4, Number.NaN] }]);
  expect(batches).toEqual([0, 51]);
  expect(values[0]).toBeCloseTo(0.3);
  expect(values[1]).toBeCloseTo(0.8);
  expect(historyRange([])).toEqual([
    [0, 1],
    [0, 1],
  ]);
});
