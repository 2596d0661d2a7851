import { afterEach, beforeEach, expect, test, vi } from "vitest";
import fits from "../../../../tests/fits.json";
import {
  exactBoxes,
  imageOf,
  limits,
  mapImage,
  undefinedBoxes,
} from "../../../src/map/image.ts";
import type { Options } from "../../../src/map/view.ts";
import { readout, spoken } from "../../../src/map/words.ts";
import type { Session } from "../../../src/state/session.ts";
import { stateOf } from "../../fake.ts";
import { exampleSession, viewOf as viewOfSession } from "../example.ts";

const LAYERS1 = ["conv1", "layer1.0", "fc"];
const LAYERS2 = ["blocks.10", "blocks.9"];

let session: Session;

const viewOf = (options?: Partial<Options>) => viewOfSession(session, options);

function show(errors?: readonly number[], is_difference = false): void {
  session?.close();
  const undefined1 = { fc: "constant: all examples give the same activations" };
  const layers = { layers1: LAYERS1, layers2: LAYERS2 };
  const _meta = { ...(stateOf()._meta as object), is_difference };
  const state = { _meta };
  const example = { ...layers, undefined1, state, ...(errors && { errors }) };
  session = exampleSession(example).session;
}

beforeEach(() => {
  vi.useFakeTimers();
  show();
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
});

test("a fitted range ends at the largest value and never starts below zero", () => {
  const [low, high] = limits(viewOf(), "fit");
  expect(low).toBe(0);
  expect(high).toBe(0.875);
  expect(limits(viewOf(), [0.2, 0.8])).toEqual([0.2, 0.8]);
  expect(limits(null, "fit")).toEqual([0, 1]);
});

test.each(fits)("$values are fitted as in Python", ({ values, range, palette }) => {
  const numbers = Float32Array.from(
    values as (number | null)[],
    (value) => value ?? Number.NaN,
  );
  const matrix = { rows: 1, cols: values.length, values: numbers };
  const found = limits({ ...viewOf(), values: matrix }, "fit", palette);
  found.forEach((end, k) => {
    expect(end).toBeCloseTo(range[k] as number, 6);
  });
});

test("masked values do not stretch a fitted range", () => {
  expect(limits(viewOf({ mask: "diagonal" }), "fit")).toEqual([0, 0.25]);
  expect(limits(viewOf({ mask: "threshold" }), "fit")).toEqual([0.5, 0.875]);
});

test("only negative values fall below a range, masked ones are left out", () => {
  const image = imageOf(viewOf({ mask: "diagonal" }), 0.5);
  expect(image[0]).toBeNaN();
  expect(image[1]).toBe(0.5);
  expect(image[2]).toBe(-0.125);
});

test("colors that go below zero are for negative values, too", () => {
  expect(imageOf(viewOf(), -1)[2]).toBe(-0.125);
  expect(imageOf(viewOf(), -0.0625)[2]).toBe(-0.0625);
});

test("values drawn in the first color are not below the range in float32", () => {
  for (const low of [0.7, 0.1, 1e-3, -0.7]) {
    const [first, second] = imageOf(viewOf(), low);
    expect(first).toBeGreaterThanOrEqual(low);
    expect(second).toBeGreaterThanOrEqual(low);
    expect(second).toBeLessThan(low + 1);
  }
  expect(imageOf(viewOf(), 0.7)[1]).toBeCloseTo(0.7, 6);
});

test("a masked value below zero needs no color", () => {
  expect(mapImage(viewOf(), [0, 1]).hasNegative).toBe(true);
  expect(mapImage(viewOf(), [-1, 1]).hasNegative).toBe(false);
  const masked = viewOf({ mask: "threshold", threshold: 0 });
  expect(mapImage(masked, [0, 1]).hasNegative).toBe(false);
});

test("undefined rows are one box, masked cells none", () => {
  expect(undefinedBoxes(viewOf())).toEqual({
    left: [0],
    right: [2],
    top: [2],
    bottom: [3],
  });
  expect(undefinedBoxes(viewOf({ mask: "lower" })).left).toEqual([]);
});

test("cells of a difference without an error are boxes, however it is drawn", () => {
  show([5e-9, 1e-4, Number.NaN, 0, 0, Number.NaN], true);
  const box = { left: [0, 1], right: [1, 2], top: [0, 1], bottom: [1, 2] };
  expect(exactBoxes(viewOf())).toEqual(box);
  expect(exactBoxes(viewOf({ transpose: true }))).toEqual(box);
  expect(exactBoxes(viewOf({ flip: true })).top).toEqual([1, 2]);
  expect(exactBoxes(viewOf({ mask: "diagonal" })).left).toEqual([]);
  expect(spoken(session.comparison, viewOf(), { row: 1, col: 1 })).toBe(
    "layer1.0 by blocks.9, 0.50, standard error 0",
  );
  expect(readout(session.comparison, viewOf(), { row: 1, col: 1 }).value).toBe(
    "0.5000 \u00b1\u202f0.0000",
  );
});

test("the map of one result has no such cells", () => {
  show([0, 0, 0, 0, Number.NaN, Number.NaN], false);
  expect(exactBoxes(viewOf()).left).toEqual([]);
});
