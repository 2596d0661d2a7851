/** The best way through a matrix that never goes back. Pure functions. */

import { extent, type Matrix } from "./matrix.ts";

export type Step = readonly [row: number, col: number];

/**
 * From the first pair to the last by steps down, right or both: of the ways that cross
 * the fewest undefined pairs, the one whose others have the highest mean.
 *
 * A mean over ways of any length is no sum, but the way of the largest sum of what is
 * above a mean has a higher one, until there is none. As `_path.py` does it.
 */
export function bestPath(matrix: Matrix): Step[] {
  const range = extent(matrix.values);
  if (!range) return [];
  const [low, high] = range;
  const fine = 2 * (matrix.rows + matrix.cols) * (high - low + 1);
  let best = largestSum(matrix, low - 1, fine);
  for (let mean = meanOf(matrix, best); ; ) {
    const next = largestSum(matrix, mean, fine);
    const own = meanOf(matrix, next);
    if (own >= mean) best = next;
    if (!(own > mean)) return best.map((at) => stepAt(matrix, at));
    mean = own;
  }
}

/** The way along which values above the level add up to most. */
function largestSum(
  { cols, values }: Matrix,
  level: number,
  fine: number,
): readonly number[] {
  const sums = new Float64Array(values.length);
  values.forEach((value, at) => {
    const before = previous(sums, cols, at);
    const own = Number.isNaN(value) ? -fine : value - level;
    sums[at] = own + (before < 0 ? 0 : (sums[before] as number));
  });
  const way = [values.length - 1];
  for (let at = values.length - 1; at > 0; ) {
    at = previous(sums, cols, at);
    way.push(at);
  }
  return way.reverse();
}

/** Where the best way to a cell comes from; of equal ones it is the shortest. */
function previous(sums: Float64Array, cols: number, at: number): number {
  const [above, left, both] = [at - cols, at - 1, at - cols - 1];
  if (above < 0) return left;
  if (at % cols === 0) return above;
  const sum = (from: number) => sums[from] as number;
  const straight = sum(left) > sum(above) ? left : above;
  return sum(straight) > sum(both) ? straight : both;
}

function meanOf({ values }: Matrix, way: readonly number[]): number {
  const known = way.map((at) => values[at] as number).filter((v) => !Number.isNaN(v));
  return known.reduce((sum, value) => sum + value, 0) / known.length;
}

function stepAt({ cols }: Matrix, at: number): Step {
  return [Math.floor(at / cols), at % cols];
}
