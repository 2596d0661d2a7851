import { expect, test } from "vitest";
import { decode, type Frame } from "../../../src/protocol.ts";
import { CellHistory, MAX_FRAMES } from "../../../src/state/history.ts";
import { wireFrame } from "../../fake.ts";

function frameOf(seq: number, batch = seq, epoch = 1, rows = 3, cols = 2): Frame {
  const received = decode(...wireFrame({ seq, batch, epoch, rows, cols }));
  if (received.kind !== "frame") throw new Error(received.kind);
  return received.frame;
}

const shape = { epoch: 1, rows: 3, cols: 2, isReset: false };

test("at most 256 of thousands of batches are kept, evenly spaced, with the last", () => {
  const history = new CellHistory();
  for (let batch = 1; batch <= 3000; batch++) history.add(frameOf(batch));
  expect(history.cell(0).batches.length).toBeLessThanOrEqual(MAX_FRAMES);
  expect(history.cell(0).batches.length).toBeGreaterThan(90);
  const { batches } = history.cell(0);
  expect(batches.at(-1)).toBe(3000);
  const gaps = batches.slice(1, -1).map((batch, k) => batch - (batches[k] as number));
  expect(Math.max(...gaps) / Math.min(...gaps)).toBeLessThanOrEqual(2);
});

test("large matrices take no more than 32 MB", () => {
  const history = new CellHistory();
  const { matrix, stderr } = {
    matrix: new Float32Array(1e6),
    stderr: new Float32Array(1e6),
  };
  for (let batch = 1; batch <= 12; batch++) {
    history.add({ ...frameOf(batch), rows: 1000, cols: 1000, matrix, stderr });
  }
  expect(history.cell(0).batches.length * 8e6).toBeLessThanOrEqual(32 * 2 ** 20);
});

test("the kernel's history fills gaps in the page's", () => {
  const history = new CellHistory();
  history.add(frameOf(9));
  const matrices = [new Float32Array(6).fill(0.25), new Float32Array(6).fill(0.5)];
  const stderrs = matrices.map(() => new Float32Array(6).fill(0.125));
  history.merge({ ...shape, batches: [4, 9], matrices, stderrs });
  const cell = history.cell(5);
  expect(cell.batches).toEqual([4, 9]);
  expect(cell.values[0]).toBe(0.25);
  expect(cell.values[1]).not.toBe(0.5);
  expect(cell.stderrs[0]).toBe(0.125);
  expect(cell.stderrs[1]).not.toBe(0.125);
});

test("a new run starts from nothing and an old one is not taken back", () => {
  const history = new CellHistory();
  history.add(frameOf(5, 5, 1));
  history.add(frameOf(1, 1, 2));
  expect(history.cell(0).batches).toEqual([1]);
  const nothing = { matrices: [], stderrs: [] };
  history.merge({ ...shape, batches: [3], ...nothing });
  expect(history.cell(0).batches).toEqual([1]);
  history.merge({ ...shape, epoch: 2, isReset: true, batches: [], ...nothing });
  expect(history.cell(0).batches).toEqual([]);
});

test("frames in which some cells are behind are left out", () => {
  const history = new CellHistory();
  history.add(frameOf(4));
  for (const batch of [2, 3, 4, 5])
    history.add({ ...frameOf(batch), matrix: new Float32Array(6), catchingUp: true });
  expect(history.cell(0).batches).toEqual([4]);
  expect(history.cell(0).values[0]).not.toBe(0);
});
