import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import fits from "../../../../tests/fits.json";
import { historyRange, trendRange } from "../../../src/drawing/trend_lines.ts";
import {
  exactBoxes,
  imageOf,
  limits,
  mapImage,
  pendingBoxes,
  undefinedBoxes,
} from "../../../src/map/image.ts";
import { markedCells, marksOf, matchCells, meanAt } from "../../../src/map/marks.ts";
import { numbersFor } from "../../../src/map/numbers.ts";
import {
  cellOf,
  frameIndex,
  type MapView,
  mapView,
  type Options,
  pairOf,
} from "../../../src/map/view.ts";
import { bestMatchWords, readout, reasonFor, spoken } from "../../../src/map/words.ts";
import { progressWords } from "../../../src/panel/progress.ts";
import { PAINT_WITHIN_MS } from "../../../src/state/frames.ts";
import { Session } from "../../../src/state/session.ts";
import { FakeModel, PLAIN, sourceOf, stateOf, wireFrame } from "../../fake.ts";

const LAYERS1 = ["conv1", "layer1.0", "fc"];
const LAYERS2 = ["blocks.10", "blocks.9"];
const VALUES = [0.875, 0.25, -0.125, 0.5, Number.NaN, Number.NaN];

let session: Session;

function viewOf(options: Partial<Options> = {}): MapView {
  return mapView(sourceOf(session), { ...PLAIN, ...options }) as MapView;
}

/** A session that shows the values with these errors. */
function show(errors: readonly number[], metric = "cka"): void {
  const axes = {
    epoch: 1,
    layers1: LAYERS1,
    layers2: LAYERS2,
    undefined1: { fc: "constant: all examples give the same activations" },
    undefined2: {},
    notes: [],
  };
  const model = new FakeModel({
    ...stateOf(),
    metric,
    layers1: LAYERS1,
    layers2: LAYERS2,
    _axes: axes,
  });
  session?.close();
  session = new Session(model);
  const edit = (matrix: Float32Array, stderr: Float32Array) => {
    matrix.set(VALUES);
    stderr.set(errors);
  };
  model.message(...wireFrame({ seq: 1, batch: 9, rows: 3, cols: 2, edit }));
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
}

beforeEach(() => {
  vi.useFakeTimers();
  show([0.01, 0.02, 0.03, 0.04, Number.NaN, Number.NaN]);
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
});

describe("what a view shows", () => {
  test("all chosen layers in execution order, rows of model 1", () => {
    const view = viewOf();
    expect(view.rows).toMatchObject({ side: 0, names: LAYERS1 });
    expect(view.columns).toMatchObject({ side: 1, names: LAYERS2 });
    expect([...view.values.values]).toEqual(VALUES);
  });

  test("by name, numbers count as numbers", () => {
    expect(viewOf({ order: "name" }).columns.names).toEqual(["blocks.9", "blocks.10"]);
    expect(viewOf({ order: "name" }).values.values[0]).toBe(0.25);
  });

  test("transposed, a cell is still the same pair and the same number", () => {
    const view = viewOf({ transpose: true });
    const cell = { row: 1, col: 0 };
    expect(pairOf(view, cell)).toEqual(["conv1", "blocks.9"]);
    expect(cellOf(view, ["conv1", "blocks.9"])).toEqual(cell);
    expect(view.values.values[view.values.cols]).toBe(0.25);
    expect(frameIndex(view, cell)).toBe(1);
  });

  test("flipped, the first row is the lowest, and a cell is still the same pair", () => {
    const view = viewOf({ flip: true });
    expect(view.rows.names).toEqual([...LAYERS1].reverse());
    expect(view.columns.names).toEqual(LAYERS2);
    const cell = { row: 2, col: 1 };
    expect(pairOf(view, cell)).toEqual(["conv1", "blocks.9"]);
    expect(view.values.values[5]).toBe(0.25);
    expect(frameIndex(view, cell)).toBe(1);
    expect(viewOf({ flip: true, transpose: true }).rows.names).toEqual([
      ...["blocks.9", "blocks.10"],
    ]);
  });

  test("masks are of the matrix, however it is drawn", () => {
    const hidden = (options: Partial<Options>) => {
      const view = viewOf({ mask: "upper", ...options });
      const { rows, cols } = view.values;
      return Array.from({ length: rows * cols }, (_, at) => at)
        .filter((at) => view.hides(Math.floor(at / cols), at % cols))
        .map((at) => pairOf(view, { row: Math.floor(at / cols), col: at % cols }));
    };
    expect(hidden({})).toEqual([["conv1", "blocks.9"]]);
    expect(hidden({ flip: true })).toEqual([["conv1", "blocks.9"]]);
    expect(hidden({ mask: "threshold", threshold: 0.5 })).toEqual([
      ["conv1", "blocks.9"],
      ["layer1.0", "blocks.10"],
    ]);
  });

  test("flipped clusters keep their order and their joins", () => {
    const plain = viewOf({ order: "clustered" });
    const clustered = plain.clustered;
    const first = viewOf({ order: "clustered", clustered, flip: true });
    const again = viewOf({
      ...{ order: "clustered", flip: true, clustered: first.clustered },
    });
    expect(first.rows.names).toEqual([...plain.rows.names].reverse());
    expect(again.rows).toEqual(first.rows);
    plain.rows.branches.forEach(({ middles }, k) => {
      const mirrored = first.rows.branches[k]?.middles;
      expect(mirrored).toEqual(middles.map((middle) => 3 - middle));
    });
  });

  test("fewer chosen layers show fewer rows, new ones wait in their places", () => {
    session.choice.choose({ 0: ["conv1", "bn1", "fc"] });
    const view = viewOf();
    expect(view.rows.names).toEqual(["conv1", "bn1", "fc"]);
    expect(view.rows.index).toEqual([0, -1, 2]);
    expect(session.choice.missingFrom(session.frames.shown)).toBe(1);
    expect([...view.values.values]).toEqual([
      ...[0.875, 0.25, Number.NaN, Number.NaN, Number.NaN, Number.NaN],
    ]);
    expect(cellOf(view, ["layer1.0", "blocks.9"])).toBeNull();
    const one = { left: [0], right: [2] };
    expect(pendingBoxes(view)).toEqual({ ...one, top: [1], bottom: [2] });
    expect(undefinedBoxes(view)).toEqual({ ...one, top: [2], bottom: [3] });
    expect(frameIndex(view, { row: 1, col: 0 })).toBe(-1);
    expect(reasonFor(session.comparison, view, { row: 1, col: 0 })).toMatch(
      /^Not computed yet/,
    );
  });

  test("the frame's order of known layers wins over that of the choice", () => {
    session.choice.choose({ 0: ["fc", "bn1", "conv1"] });
    expect(viewOf().rows.names).toEqual(["conv1", "bn1", "fc"]);
    expect(viewOf({ order: "clustered" }).rows.names.at(-1)).toBe("bn1");
  });

  test("before the first frame every chosen cell waits", () => {
    session.frames.shown = null;
    const view = viewOf({ transpose: true });
    expect(view.values).toMatchObject({ rows: 2, cols: 3 });
    expect(pendingBoxes(view)).toEqual({
      ...{ left: [0], right: [3], top: [0], bottom: [2] },
    });
  });

  test("clustered order stays while frames come in", () => {
    const branches = [{ middles: [0.5, 1.5], heights: [0, 0, 1] }] as const;
    const clustered = [
      { names: ["fc", "conv1", "layer1.0"], branches },
      { names: LAYERS2, branches: [] },
    ] as const;
    const kept = viewOf({ order: "clustered", clustered }).rows;
    expect(kept).toMatchObject(clustered[0]);
    expect([...viewOf({ order: "clustered" }).rows.names].sort()).toEqual(
      [...LAYERS1].sort(),
    );
  });
});

describe("colors", () => {
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

  test("what is masked does not stretch a fitted range", () => {
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

  test("what is drawn at the least color is not below it in float32", () => {
    for (const low of [0.7, 0.1, 1e-3, -0.7]) {
      const [first, second] = imageOf(viewOf(), low);
      expect(first).toBeGreaterThanOrEqual(low);
      expect(second).toBeGreaterThanOrEqual(low);
      expect(second).toBeLessThan(low + 1);
    }
    expect(imageOf(viewOf(), 0.7)[1]).toBeCloseTo(0.7, 6);
  });

  test("a value below zero that is left out needs no color", () => {
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

  test("of a difference, cells without an error are boxes, however it is drawn", () => {
    show([5e-9, 1e-4, Number.NaN, 0, 0, Number.NaN], "cka difference");
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
    show([0, 0, 0, 0, Number.NaN, Number.NaN], "cka");
    expect(exactBoxes(viewOf()).left).toEqual([]);
  });

  test("numbers are read on both ends of diverging colors", () => {
    const ends = { limits: [-0.125, 0.125], palette: ["#000000", "#ffffff"] } as const;
    const visible = {
      rows: [1, 2] as [number, number],
      cols: [0, 1] as [number, number],
    };
    const around = { cell: { width: 30, height: 20 }, visible, ...ends };
    expect(numbersFor(viewOf(), around).color).toEqual(["#ffffff"]);
  });

  test("best matches are of rows and of columns, never masked, and of others", () => {
    const both = [
      { row: 0, col: 0 },
      { row: 1, col: 1 },
    ];
    expect(matchCells(viewOf(), false)).toEqual({
      ofRows: both,
      ofColumns: both,
    });
    const masked = matchCells(viewOf({ mask: "diagonal" }), false);
    expect(masked.ofRows).toEqual([
      { row: 0, col: 1 },
      { row: 1, col: 0 },
    ]);
    const view = viewOf();
    const columns = { ...view.columns, names: ["conv1", "fc"] };
    expect(matchCells({ ...view, columns }, true).ofRows).toEqual([
      { row: 0, col: 1 },
      { row: 1, col: 1 },
    ]);
  });

  test("the best path runs through computed layers as executed, in any order", () => {
    const cells = (options: Partial<Options>, inOrder = true) => {
      const view = viewOf(options);
      const of = { isSelf: false, isInOrder: inOrder };
      const marks = marksOf(view, "path", of);
      return { marks, pairs: markedCells(marks).map((cell) => pairOf(view, cell)) };
    };
    const pairs = [
      ["conv1", "blocks.10"],
      ["layer1.0", "blocks.9"],
      ["fc", "blocks.9"],
    ];
    expect(cells({}).pairs).toEqual(pairs);
    expect(cells({ flip: true }).pairs).toEqual(pairs);
    expect(cells({ transpose: true }).pairs).toEqual(pairs);
    const byName = cells({ order: "name" }, false);
    expect(byName.pairs).toEqual(pairs);
    expect(byName.marks.path).toEqual([]);
    expect(cells({ mask: "diagonal" }).pairs).not.toEqual(pairs);
    session.choice.choose({ 0: ["conv1", "bn1", "layer1.0", "fc"] });
    expect(cells({}).pairs).toEqual(pairs);
    const view = viewOf();
    const marks = marksOf(view, "path", { isSelf: false, isInOrder: true });
    expect(meanAt(view, markedCells(marks))).toBe(0.6875);
  });

  test("numbers are written where they fit, in ink that is seen", () => {
    const around = {
      cell: { width: 30, height: 20 },
      visible: { rows: [0, 3], cols: [0, 2] } as {
        rows: [number, number];
        cols: [number, number];
      },
      limits: [0, 1] as const,
      palette: ["#000000", "#ffffff"],
    };
    const numbers = numbersFor(viewOf(), around);
    expect(numbers.text).toEqual(["0.88", "0.25", "\u22120.13", "0.50"]);
    expect(numbers.color.slice(0, 2)).toEqual(["#000000", "#ffffff"]);
    const narrow = { ...around, cell: { width: 27, height: 20 } };
    expect(numbersFor(viewOf(), narrow).text).toEqual([]);
  });
});

describe("words", () => {
  test("a cell is read with its ranks, an undefined one with its reason", () => {
    expect(readout(session.comparison, viewOf(), { row: 0, col: 0 })).toMatchObject({
      names: ["conv1", "blocks.10"],
      value: "0.8750 \u00b1\u202f0.0100",
    });
    const view = viewOf();
    const shown = view.shown && {
      ...view.shown,
      frame: { ...view.shown.frame, step: 0.0039 },
    };
    expect(
      readout(session.comparison, { ...view, shown }, { row: 0, col: 0 }).value,
    ).toBe("0.88 \u00b1\u202f0.010");
    const facts = readout(session.comparison, viewOf(), { row: 0, col: 0 }).facts;
    expect(facts).toContain(
      "1st of 2 in row \u00b7 1st of 2 in column \u00b7 9 batches",
    );
    expect(readout(session.comparison, viewOf(), { row: 2, col: 0 }).facts).toContain(
      "Undefined. fc: constant: all examples give the same activations",
    );
  });

  test("spoken words have no signs that are not spoken", () => {
    expect(spoken(session.comparison, viewOf(), { row: 1, col: 0 })).toBe(
      "layer1.0 by blocks.10, minus 0.13 plus or minus 0.030",
    );
  });

  test("the best match names both layers, and an undefined row has none", () => {
    expect(
      bestMatchWords(session.comparison, viewOf(), { row: 0, col: 1 }, "row"),
    ).toEqual({
      of: "conv1",
      match: "blocks.10",
      rest: "(0.875\u00a0\u00b1\u202f0.010)",
    });
    expect(
      bestMatchWords(session.comparison, viewOf(), { row: 2, col: 0 }, "row"),
    ).toBeNull();
    vi.spyOn(session.comparison, "isSelf", "get").mockReturnValue(true);
    const view = viewOf();
    const itself = { ...view, columns: { ...view.columns, names: ["conv1", "fc"] } };
    const best = bestMatchWords(session.comparison, itself, { row: 0, col: 0 }, "row");
    expect(best?.match).toBe("fc");
  });

  test("progress is one line, without a percentage when the total is unknown", () => {
    const frame = {
      ...(session.frames.shown?.frame as Parameters<typeof progressWords>[0]),
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
});

test("trends reach below zero where values do, and keep the colors' range else", () => {
  expect(trendRange(viewOf(), [0, 1])).toEqual([-0.135, 1]);
  expect(trendRange(viewOf(), [0.25, 0.75])).toEqual([0.25, 0.75]);
  expect(trendRange(viewOf(), [-0.5, 1])).toEqual([-0.5, 1]);
  expect(trendRange(viewOf(), [-0.5, 0.875])).toEqual([-0.5, expect.closeTo(0.916)]);
  expect(trendRange(null, [0, 1])).toEqual([0, 1]);
});

test("the convergence plot holds its lines with their bands, not only the first band", () => {
  const cone = { at: [2, 8, 32], value: [0.5, 0.7, 0.6], stderr: [0.15, 0.07, 0.04] };
  const [, [low, high]] = historyRange([cone]);
  expect([low, high]).toEqual([expect.closeTo(0.35), expect.closeTo(0.85)]);
  const [, wild] = historyRange([{ ...cone, stderr: [9, 0.07, 0.04] }]);
  expect(wild).toEqual([expect.closeTo(0.3), expect.closeTo(0.9)]);
});

test("the convergence plot holds all its lines with the last band", () => {
  const line = { at: [1, 50], value: [0.5, 0.7], stderr: [Number.NaN, 0.1] };
  const [batches, values] = historyRange([line, { ...line, value: [0.4, Number.NaN] }]);
  expect(batches).toEqual([0, 51]);
  expect(values[0]).toBeCloseTo(0.3);
  expect(values[1]).toBeCloseTo(0.8);
  expect(historyRange([])).toEqual([
    [0, 1],
    [0, 1],
  ]);
});
