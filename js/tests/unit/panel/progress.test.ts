import { expect, test } from "vitest";
import { progressWords } from "../../../src/panel/progress.ts";
import { exampleForEachTest } from "../example.ts";

const each = exampleForEachTest();

test("progress is one line, without a percentage when the total is unknown", () => {
  const frame = {
    ...(each.session.frames.shown?.frame as Parameters<typeof progressWords>[0]),
    batch: 37,
    total: 157,
    examples: 4736,
    rate: 1210,
    seconds: 31,
    maxStderr: 0.004,
    matrix: Float32Array.of(0.5, 0.25, Number.NaN, 0.75),
    rows: 2,
    cols: 2,
  };
  expect(progressWords(frame)).toBe(
    "37/157 batches \u00b7 4\u202f736 examples \u00b7 1\u202f210 examples/s \u00b7 " +
      "00:31 < 01:41 \u00b7 mean 0.500 \u00b7 diagonal 0.625 \u00b7 " +
      "largest \u00b1\u202f0.004",
  );
  expect(progressWords(frame, true)).toContain("mean 0.500 \u00b7 largest");
  expect(progressWords({ ...frame, batch: 1, total: 1 })).toMatch(/^1\/1 batch /);
  expect(progressWords({ ...frame, rows: 1, cols: 4 })).not.toContain("diagonal");
  expect(progressWords({ ...frame, total: null, maxStderr: null, skipped: 2 })).toBe(
    "37 batches \u00b7 4\u202f736 examples \u00b7 2 skipped \u00b7 " +
      "1\u202f210 examples/s \u00b7 00:31 \u00b7 mean 0.500 \u00b7 diagonal 0.625",
  );
  const gpu = [3.1 * 2 ** 30, 79.6 * 2 ** 30] as const;
  expect(progressWords({ ...frame, gpu })).toContain(
    "00:31 < 01:41 \u00b7 GPU 3.1/80 GB \u00b7 mean",
  );
});
