import { expect, test } from "vitest";
import {
  bestMatch,
  columnOf,
  extent,
  isMasked,
  picked,
  positions,
  rankOf,
  transposed,
} from "../../../src/matrix/matrix.ts";

const matrix = {
  rows: 2,
  cols: 3,
  values: Float32Array.of(1, 2, 3, 4, Number.NaN, 6),
};

test("rows and columns are picked, swapped and read", () => {
  expect([...picked(matrix, [1, 0], [2]).values]).toEqual([6, 3]);
  expect([...transposed(matrix).values]).toEqual([1, 4, 2, Number.NaN, 3, 6]);
  expect([...columnOf(matrix, 2)]).toEqual([3, 6]);
  expect(extent(matrix.values)).toEqual([1, 6]);
  expect(extent(Float32Array.of(Number.NaN))).toBeNull();
  expect(positions(["b", "x"], ["a", "b"])).toEqual([1, -1]);
});

test("ranks and best matches leave undefined cells out and count ties", () => {
  const line = Float32Array.of(0.4, Number.NaN, 0.9, 0.89);
  expect(rankOf(line, 2)).toBe(1);
  expect(rankOf(line, 0)).toBe(3);
  expect(rankOf(line, 1)).toBeNull();
  const stderr = Float32Array.of(0.01, Number.NaN, 0.01, 0.01);
  expect(bestMatch(line, stderr)).toMatchObject({ index: 2, ties: 1 });
  expect(bestMatch(line, new Float32Array(4))).toMatchObject({ ties: 0 });
  expect(bestMatch(Float32Array.of(Number.NaN), new Float32Array(1))).toBeNull();
});

test("masks hide the part they are named after", () => {
  expect(isMasked("upper", 0, 1)).toBe(true);
  expect(isMasked("upper", 1, 1)).toBe(false);
  expect(isMasked("lower", 1, 0)).toBe(true);
  expect(isMasked("diagonal", 1, 1)).toBe(true);
  expect(isMasked("none", 1, 1)).toBe(false);
});
