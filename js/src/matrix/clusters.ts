/** Rows of a matrix in the order of their resemblance, and the dendrogram. */

import type { Matrix } from "./matrix.ts";

/** Distance of rows without a common defined column: above that of any others. */
const UNRELATED = 2;

/** A row, or two clusters joined at the height of their distance. */
export interface Cluster {
  readonly id: number;
  readonly order: readonly number[];
  readonly height: number;
  readonly parts: readonly [Cluster, Cluster] | null;
}

/** Where two clusters are joined: their middles on the axis, and three heights. */
export interface Branch {
  readonly middles: readonly [number, number];
  /** Of both parts and of their join, as shares of the highest join. */
  readonly heights: readonly [number, number, number];
}

/** All rows in one tree by average linkage, in an order that puts similar rows together. */
export function clusterRows(matrix: Matrix): Cluster | null {
  const n = matrix.rows;
  const distance = distances(matrix);
  let groups: Cluster[] = Array.from({ length: n }, (_, k) => ({
    ...{ id: k, order: [k], height: 0, parts: null },
  }));
  while (groups.length > 1) {
    groups = joined(groups, closest(groups, distance, n), distance, n);
  }
  return groups[0] ?? null;
}

function closest(
  groups: readonly Cluster[],
  distance: Float64Array,
  n: number,
): [number, number] {
  let best = Number.POSITIVE_INFINITY;
  let pair: [number, number] = [0, 1];
  for (let a = 0; a < groups.length; a++) {
    const row = (groups[a] as Cluster).id * n;
    for (let b = a + 1; b < groups.length; b++) {
      const gap = distance[row + (groups[b] as Cluster).id] as number;
      if (gap < best) [best, pair] = [gap, [a, b]];
    }
  }
  return pair;
}

/** The joins of a tree whose rows are at 0.5, 1.5, ... in its order. */
export function branchesOf(tree: Cluster | null): Branch[] {
  const found: { middles: [number, number]; heights: [number, number, number] }[] = [];
  const walk = (cluster: Cluster, from: number): number => {
    if (!cluster.parts) return from + 0.5;
    const [first, second] = cluster.parts;
    const middles: [number, number] = [
      walk(first, from),
      walk(second, from + first.order.length),
    ];
    if (cluster.height < UNRELATED) {
      found.push({ middles, heights: [first.height, second.height, cluster.height] });
    }
    return (middles[0] + middles[1]) / 2;
  };
  if (tree) walk(tree, 0);
  const highest = found.reduce((most, { heights }) => Math.max(most, heights[2]), 0);
  return found.map(({ middles, heights: [first, second, own] }) => {
    const share = (height: number) => (highest > 0 ? height / highest : 0);
    return { middles, heights: [share(first), share(second), share(own)] };
  });
}

function joined(
  groups: readonly Cluster[],
  [a, b]: readonly [number, number],
  distance: Float64Array,
  n: number,
): Cluster[] {
  const [one, other] = [groups[a] as Cluster, groups[b] as Cluster];
  const height = distance[one.id * n + other.id] as number;
  const [wa, wb] = [one.order.length, other.order.length];
  for (const { id } of groups) {
    const mean =
      (wa * (distance[one.id * n + id] as number) +
        wb * (distance[other.id * n + id] as number)) /
      (wa + wb);
    distance[one.id * n + id] = mean;
    distance[id * n + one.id] = mean;
  }
  const parts: [Cluster, Cluster] =
    Math.min(...one.order) <= Math.min(...other.order) ? [one, other] : [other, one];
  const order = parts.flatMap((part) => part.order);
  const whole = { id: one.id, order, height, parts };
  return groups.map((group, k) => (k === a ? whole : group)).filter((_, k) => k !== b);
}

/** Root mean square distances of all pairs of rows, over the columns that both define. */
function distances({ rows, cols, values }: Matrix): Float64Array {
  const all = new Float64Array(rows * rows);
  for (let a = 0; a < rows; a++) {
    for (let b = 0; b < a; b++) {
      const gap = distanceOf(values, a * cols, b * cols, cols);
      all[a * rows + b] = gap;
      all[b * rows + a] = gap;
    }
  }
  return all;
}

function distanceOf(values: Float32Array, a: number, b: number, cols: number): number {
  let [sum, terms] = [0, 0];
  for (let j = 0; j < cols; j++) {
    const gap = (values[a + j] as number) - (values[b + j] as number);
    if (Number.isNaN(gap)) continue;
    sum += gap * gap;
    terms += 1;
  }
  return terms > 0 ? Math.sqrt(sum / terms) : UNRELATED;
}
