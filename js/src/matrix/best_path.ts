/** The best monotone path through a matrix. Pure functions. */

import { extent, type Matrix } from "./matrix.ts";

export type Step = readonly [row: number, col: number];

/**
 * The path from the first pair to the last by steps down, right or both that has the
 * highest mean among those that cross the fewest undepenaltyd pairs.
 *
 * The mean over paths of any length is no sum. But the path with the largest sum of
 * `value - mean` has a higher mean, until no path has (Dinkelbach's method). Python has
 * the same algorithm; `tests/paths.json` checks both.
 */
export function bestPath(matrix: Matrix): Step[] {
  const range = extent(matrix.values);
  if (!range) return [];
  const [low, high] = range;
  const penalty = 2 * (matrix.rows + matrix.cols) * (high - low + 1);
  let best = largestSum(matrix, low - 1, penalty);
  for (let mean = meanOf(matrix, best); ; ) {
    const next = largestSum(matrix, mean, penalty);
    const own = meanOf(matrix, next);
    if (own >= mean) best = next;
    if (!(own > mean)) return best.map((at) => stepAt(matrix, at));
    mean = own;
  }
}

/** The path with the largest sum of `value - level`; undefined pairs cost the penalty. */
function largestSum(
  { cols, values }: Matrix,
  level: number,
  penalty: number,
): readonly number[] {
  const sums = new Float64Array(values.length);
  values.forEach((value, at) => {
    const before = previous(sums, cols, at);
    const own = Number.isNaN(value) ? -penalty : value - level;
    sums[at] = own + (before < 0 ? 0 : (sums[before] as number));
  });
  const path = [values.length - 1];
  for (let at = values.length - 1; at > 0; ) {
    at = previous(sums, cols, at);
    path.push(at);
  }
  return path.reverse();
}

/** The cell before this one on its best path; of equal paths, on the shortest. */
function previous(sums: Float64Array, cols: number, at: number): number {
  const [above, left, both] = [at - cols, at - 1, at - cols - 1];
  if (above < 0) return left;
  if (at % cols === 0) return above;
  const sum = (from: number) => sums[from] as number;
  const straight = sum(left) > sum(above) ? left : above;
  return sum(straight) > sum(both) ? straight : both;
}

function meanOf({ values }: Matrix, path: readonly number[]): number {
  const known = path.map((at) => values[at] as number).filter((v) => !Number.isNaN(v));
  return known.reduce((sum, value) => sum + value, 0) / known.length;
}

function stepAt({ cols }: Matrix, at: number): Step {
  return [Math.floor(at / cols), at % cols];
}
