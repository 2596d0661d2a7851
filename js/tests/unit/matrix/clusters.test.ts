import { expect, test } from "vitest";
import { branchesOf, clusterRows } from "../../../src/matrix/clusters.ts";

test("clustering puts similar rows together and keeps undefined ones", () => {
  const rows = [
    [1, 0, 0],
    [0, 1, 1],
    [0.9, 0.1, 0],
    [0, 0.9, 1],
    [Number.NaN, Number.NaN, Number.NaN],
  ];
  const values = Float32Array.from(rows.flat());
  const tree = clusterRows({ rows: 5, cols: 3, values });
  const order = tree?.order ?? [];
  expect([...order].sort()).toEqual([0, 1, 2, 3, 4]);
  expect(Math.abs(order.indexOf(0) - order.indexOf(2))).toBe(1);
  expect(Math.abs(order.indexOf(1) - order.indexOf(3))).toBe(1);
  const branches = branchesOf(tree);
  expect(branches).toHaveLength(3);
  expect(branches.every(({ middles: [a, b] }) => a < 4 && b < 4)).toBe(true);
});

test("a dendrogram joins alike rows low and the others at its top", () => {
  const values = Float32Array.of(0, 0.5, 0.1);
  const tree = clusterRows({ rows: 3, cols: 1, values });
  expect(tree?.order).toEqual([0, 2, 1]);
  const [low, high] = branchesOf(tree);
  const share = expect.closeTo(0.1 / 0.45, 5);
  expect(low).toEqual({ middles: [0.5, 1.5], heights: [0, 0, share] });
  expect(high).toEqual({ middles: [1, 2.5], heights: [share, 0, 1] });
  expect(branchesOf(clusterRows({ rows: 1, cols: 1, values }))).toEqual([]);
  expect(branchesOf(null)).toEqual([]);
});

test("equal rows are joined at height 0", () => {
  const values = new Float32Array(4);
  const [only] = branchesOf(clusterRows({ rows: 2, cols: 2, values }));
  expect(only?.heights).toEqual([0, 0, 0]);
});
