import { expect, test } from "vitest";
import { bandsOf, dotSize } from "../../../src/drawing/charts.ts";

test("the dots of a trend are left out where they would hide its line", () => {
  expect(dotSize(460 / 520)).toBe(0);
  expect(dotSize(460 / 60)).toBe(4);
});

test("the band of a line ends where the line is undefined, and starts again after it", () => {
  const [none, half] = [Number.NaN, 0.5];
  const bands = bandsOf({
    at: [0, 1, 2, 3, 4, 5, 6],
    value: [none, none, 1, 1, none, 2, 2],
    stderr: [half, half, half, half, half, half, none],
  });
  expect(bands.at).toEqual([
    [2, 3, 3, 2],
    [5, 5],
  ]);
  expect(bands.value).toEqual([
    [1.5, 1.5, 0.5, 0.5],
    [2.5, 1.5],
  ]);
});
