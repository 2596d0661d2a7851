import { describe, expect, test } from "vitest";
import globs from "../../../tests/globs.json";
import { fittingLimit, geometryFor, labelRoom } from "../../src/drawing/layout.ts";
import { blockLevels, blockNameOf } from "../../src/matrix/blocks.ts";
import { branchesOf, clusterRows } from "../../src/matrix/clusters.ts";
import {
  commonPrefix,
  depthTicks,
  ellipsis,
  shortLabel,
  ticksFor,
  usualPrefix,
} from "../../src/matrix/labels.ts";
import {
  bestMatch,
  columnOf,
  extent,
  isMasked,
  picked,
  positions,
  rankOf,
  transposed,
} from "../../src/matrix/matrix.ts";
import { decode, type Frame } from "../../src/protocol.ts";
import { CellHistory, MAX_FRAMES } from "../../src/state/history.ts";
import { globPattern, matches } from "../../src/tree/query.ts";
import * as format from "../../src/ui/format.ts";
import { columnsFrom, resnetColumns, wireFrame } from "../fake.ts";

function frameOf(seq: number, batch = seq, epoch = 1, rows = 3, cols = 2): Frame {
  const received = decode(...wireFrame({ seq, batch, epoch, rows, cols }));
  if (received.kind !== "frame") throw new Error(received.kind);
  return received.frame;
}

describe("format", () => {
  test("numbers are grouped, shortened and signed as people read them", () => {
    expect(format.count(4736)).toBe("4\u202f736");
    expect(format.count(1234567)).toBe("1\u202f234\u202f567");
    expect(format.count(12)).toBe("12");
    expect([999, 1000, 36928, 999499, 999500, 11689512].map(format.short)).toEqual([
      "999",
      "1.00k",
      "36.9k",
      "999k",
      "1.00M",
      "11.7M",
    ]);
    expect(format.value(-0.01234)).toBe("\u22120.012");
    expect(format.value(-0.0001)).toBe("0.000");
    expect(format.value(Number.NaN)).toBe("\u2013");
    expect(format.plusMinus(null)).toBe("");
  });

  test("time and shapes are short", () => {
    expect(format.clock(31)).toBe("00:31");
    expect(format.clock(3723)).toBe("1:02:03");
    expect(format.shape([null, 64, 56, 56])).toBe("64\u00d756\u00d756");
    expect(format.shape(null)).toBe("");
    expect(format.plural(1, "batch", "batches")).toBe("1 batch");
    expect(format.layerName("", "ResNet")).toBe("ResNet");
  });
});

describe("history", () => {
  const shape = { epoch: 1, rows: 3, cols: 2, isReset: false };

  test("of thousands of batches at most 256 are kept, evenly, with the last", () => {
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

  test("what the kernel kept fills in what the page has missed", () => {
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

  test("frames in which some cells are behind are no part of it", () => {
    const history = new CellHistory();
    history.add(frameOf(4));
    for (const batch of [2, 3, 4, 5])
      history.add({ ...frameOf(batch), matrix: new Float32Array(6), catchingUp: true });
    expect(history.cell(0).batches).toEqual([4]);
    expect(history.cell(0).values[0]).not.toBe(0);
  });
});

describe("labels", () => {
  test("a shared prefix ends at a dot and never takes a whole name", () => {
    expect(commonPrefix(["encoder.layer.0", "encoder.layer.11"])).toBe(
      "encoder.layer.",
    );
    expect(commonPrefix(["encoder.layer", "encoder.layer.0"])).toBe("encoder.");
    expect(commonPrefix(["conv1", "conv2"])).toBe("");
    expect(commonPrefix(["a.b.c"])).toBe("");
  });

  test("a long name keeps both its ends in 28 characters", () => {
    const short = ellipsis(`head${"x".repeat(120)}tail`);
    expect(short).toHaveLength(28);
    expect(short.startsWith("head")).toBe(true);
    expect(short.endsWith("tail")).toBe(true);
    expect(ellipsis("conv1")).toBe("conv1");
  });

  test("400 names of 120 characters give as many ticks as fit, never none", () => {
    const names = Array.from({ length: 400 }, (_, k) => `${"n".repeat(117)}${k}`);
    const { ticks, labels } = ticksFor(
      names.map((name) => ellipsis(name)),
      400,
      0,
      420,
    );
    expect(ticks.length).toBeGreaterThan(20);
    expect(ticks.length * 14).toBeLessThanOrEqual(420);
    expect([...labels.values()].every((label) => label.length > 0)).toBe(true);
    const zoomed = ticksFor(names, 10.2, 13.8, 420).ticks;
    expect(zoomed).toEqual([10.5, 11.5, 12.5, 13.5]);
    expect(ticksFor(names, 0, 400, 3).ticks).toHaveLength(1);
  });
});

describe("matrix", () => {
  const matrix = {
    rows: 2,
    cols: 3,
    values: Float32Array.of(1, 2, 3, 4, Number.NaN, 6),
  };

  test("rows and columns are picked, swapped and read", () => {
    expect([...picked(matrix, [1, 0], [2]).values]).toEqual([6, 3]);
    expect([...transposed(matrix).values]).toEqual([1, 4, 2, Number.NaN, 3, 6]);
    expect([...columnOf(matrix, 2)]).toEqual([3, 6]);
    expect(extent(matrix.values)).toEqual([1, 6]);
    expect(extent(Float32Array.of(Number.NaN))).toBeNull();
    expect(positions(["b", "x"], ["a", "b"])).toEqual([1, -1]);
  });

  test("ranks and best matches leave undefined cells out and count ties", () => {
    const line = Float32Array.of(0.4, Number.NaN, 0.9, 0.89);
    expect(rankOf(line, 2)).toBe(1);
    expect(rankOf(line, 0)).toBe(3);
    expect(rankOf(line, 1)).toBeNull();
    const stderr = Float32Array.of(0.01, Number.NaN, 0.01, 0.01);
    expect(bestMatch(line, stderr)).toMatchObject({ index: 2, ties: 1 });
    expect(bestMatch(line, new Float32Array(4))).toMatchObject({ ties: 0 });
    expect(bestMatch(Float32Array.of(Number.NaN), new Float32Array(1))).toBeNull();
  });

  test("clustering brings alike rows together and takes undefined ones along", () => {
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

  test("equal rows are joined at no height", () => {
    const values = new Float32Array(4);
    const [only] = branchesOf(clusterRows({ rows: 2, cols: 2, values }));
    expect(only?.heights).toEqual([0, 0, 0]);
  });

  test("masks hide what they are called after", () => {
    expect(isMasked("upper", 0, 1)).toBe(true);
    expect(isMasked("upper", 1, 1)).toBe(false);
    expect(isMasked("lower", 1, 0)).toBe(true);
    expect(isMasked("diagonal", 1, 1)).toBe(true);
    expect(isMasked("none", 1, 1)).toBe(false);
  });
});

describe("ticks of depth", () => {
  const shares = (...of: Parameters<typeof depthTicks>) => [
    ...depthTicks(...of).labels,
  ];

  test("are even shares of any number of layers, from either end", () => {
    expect(shares(8, false, [0, 8, 200])).toEqual([
      ...[
        [0, "0\u202f%"],
        [2, "25\u202f%"],
        [4, "50\u202f%"],
      ],
      ...[
        [6, "75\u202f%"],
        [8, "100\u202f%"],
      ],
    ]);
    expect(shares(8, true, [8, 0, 40])).toEqual([
      [8, "0\u202f%"],
      [0, "100\u202f%"],
    ]);
  });

  test("are finer where the map is zoomed, and only those in sight", () => {
    expect(shares(200, false, [100, 110, 320]).map(([, text]) => text)).toEqual([
      ...["50\u202f%", "51\u202f%", "52\u202f%", "53\u202f%", "54\u202f%", "55\u202f%"],
    ]);
  });
});

describe("labels of long names", () => {
  const layers = [0, 10].flatMap((k) =>
    ["query", "value"].map((part) => `bert.encoder.layer.${k}.attention.self.${part}`),
  );

  test("lose what most of them begin with, not the number of their block", () => {
    const usual = usualPrefix([...layers, "pooler"]);
    expect(usual).toBe("bert.encoder.layer.");
    expect(shortLabel(layers[0] ?? "", usual, 28)).toBe("\u20260.attention.self.query");
    expect(shortLabel(layers[2] ?? "", usual, 16)).toBe("\u202610.atte\u2026f.query");
    expect(shortLabel("pooler", usual, 28)).toBe("pooler");
  });

  test("keep it where it is short enough, or where there is none", () => {
    expect(shortLabel("blocks.3", "blocks.", 28)).toBe("blocks.3");
    expect(usualPrefix(["layer1.0", "layer2.0", "fc"])).toBe("");
    expect(usualPrefix([])).toBe("");
  });
});

describe("blocks", () => {
  test("layers of a numbered block are of it, others of their parent", () => {
    expect(blockNameOf("blocks.3.attn.qkv")).toBe("blocks.3");
    expect(blockNameOf("encoder.layer.11.mlp")).toBe("encoder.layer.11");
    expect(blockNameOf("layer1.0")).toBe("layer1");
    expect(blockNameOf("stem.conv")).toBe("stem");
    expect(blockNameOf("conv1")).toBe("");
    expect(blockNameOf("0")).toBe("");
  });

  test("neighbors of one block are under one bracket", () => {
    const stages = ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"];
    expect(blockLevels(stages)).toEqual([
      [
        { name: "layer1", from: 1, to: 3 },
        { name: "layer2", from: 3, to: 5 },
      ],
    ]);
    const shuffled = ["layer1.0", "layer2.0", "layer1.1", "layer1.2"];
    expect(blockLevels(shuffled)).toEqual([[{ name: "layer1", from: 2, to: 4 }]]);
  });

  test("a block that is itself a layer stands among its own", () => {
    const names = ["h.0.attn", "h.0.mlp", "h.0", "h.1.attn", "h.1"];
    expect(blockLevels(names)).toEqual([
      [
        { name: "0", from: 0, to: 3 },
        { name: "1", from: 3, to: 5 },
      ],
    ]);
  });

  test("blocks are of stages, which are the second level", () => {
    const names = ["a.0.x", "a.0.y", "a.1.x", "a.1.y", "b.0.x", "b.0.y", "head"];
    const [blocks, stages] = blockLevels(names);
    expect(blocks?.map(({ name }) => name)).toEqual(["a.0", "a.1", "b.0"]);
    expect(stages).toEqual([
      { name: "a", from: 0, to: 4 },
      { name: "b", from: 4, to: 6 },
    ]);
  });

  test("one block of all layers says nothing", () => {
    expect(blockLevels(["blocks.0", "blocks.1"])).toEqual([]);
    expect(blockLevels(["0", "1", "2"])).toEqual([]);
    expect(blockLevels([])).toEqual([]);
  });
});

describe("query", () => {
  const columns = resnetColumns();
  const found = (query: string) => {
    const flags = matches(query, columns);
    return columns.name.filter((_, row) => flags?.[row]);
  };

  test("text, globs, regular expressions, types and depths are understood", () => {
    expect(found("layer1.0.conv")).toEqual(["layer1.0.conv1", "layer1.0.conv2"]);
    expect(found("layer?.0")).toHaveLength(4);
    expect(found("layer1.*")).toHaveLength(12);
    expect(found("layer1.* depth:2")).toEqual(["layer1.0", "layer1.1"]);
    expect(found("layer[23].0")).toEqual(["layer2.0", "layer3.0"]);
    expect(found("/bn\\d$/")).toHaveLength(17);
    expect(found("type:BasicBlock")).toHaveLength(8);
    expect(found("type:basic*")).toHaveLength(8);
    expect(found("depth:1 type:Conv2d")).toEqual(["conv1"]);
    expect(found("depth:<=1")).toHaveLength(12);
    expect(matches("  ", columns)).toBeNull();
  });

  test.each(globs)("the glob $glob means what it means in Python", (example) => {
    const pattern = globPattern(example.glob, "");
    for (const name of example.takes) expect(name).toMatch(pattern);
    for (const name of example.leaves) expect(name).not.toMatch(pattern);
  });

  test("a name with brackets is found by itself", () => {
    const odd = columnsFrom([{ name: "odd[1]", type: "Linear" }], {});
    expect([...(matches("odd[1]", odd) ?? [])]).toEqual([1]);
    expect([...(matches("dd[", odd) ?? [])]).toEqual([1]);
    expect(() => matches("odd[z-a]", odd)).toThrow("odd[z-a] is not a valid");
  });

  test("a query that cannot be meant is answered in words", () => {
    expect(() => matches("/(/", columns)).toThrow(
      "/(/ is not a valid regular expression",
    );
    expect(() => matches("depth:deep", columns)).toThrow('"depth:deep" needs a number');
  });
});

test("long names lose what most begin with before the map loses its room", () => {
  const names = [0, 1, 2].map((k) => `encoder.stages.${k}.layers.0`);
  const usual = usualPrefix(names);
  const pixels = (limit: number) =>
    Math.max(...names.map((name) => 6 * shortLabel(name, usual, limit).length));
  const fitting = (width: number) => fittingLimit(pixels, labelRoom(width, false), 28);
  expect(shortLabel(names[1] ?? "", usual, fitting(650))).toBe("\u20261.layers.0");
  expect(shortLabel(names[1] ?? "", usual, fitting(900))).toBe(names[1]);
});

test("charts fit into the width they are given, from a phone to a wide screen", () => {
  for (const width of [240, 280, 420, 700, 1400]) {
    const geometry = geometryFor(width, {
      rows: 11,
      cols: 15,
      rowLabel: labelRoom(width, true),
      columnLabel: 90,
      ...{ rowBlocks: true, columnBlocks: true, rowTree: true, columnTree: true },
      isSquare: false,
    });
    expect(geometry.width + geometry.aside).toBeLessThanOrEqual(width);
    const { left, right } = geometry;
    expect(geometry.width - left - right).toBeGreaterThan(60);
    expect(geometry.history.width).toBeLessThanOrEqual(width);
    expect(geometry.height).toBeGreaterThanOrEqual(200);
  }
});
