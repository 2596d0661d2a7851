import { expect, test } from "vitest";
import examples from "../../../../tests/paths.json";
import { bestPath } from "../../../src/matrix/best_path.ts";

test.each(examples)("the path is Python's: $name", ({ matrix, path }) => {
  const numbers = (matrix as (number | null)[][]).flat();
  const values = Float32Array.from(numbers, (number) => number ?? Number.NaN);
  const [first = []] = matrix;
  expect(bestPath({ rows: matrix.length, cols: first.length, values })).toEqual(path);
});
