import { describe, expect, test } from "vitest";
import {
  commonPrefix,
  depthTicks,
  ellipsis,
  shortLabel,
  ticksFor,
  usualPrefix,
} from "../../../src/matrix/labels.ts";

test("a shared prefix ends at a dot and never takes a whole name", () => {
  expect(commonPrefix(["encoder.layer.0", "encoder.layer.11"])).toBe("encoder.layer.");
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

  test("are finer where the map is zoomed, and only in the visible part", () => {
    expect(shares(200, false, [100, 110, 320]).map(([, text]) => text)).toEqual([
      ...["50\u202f%", "51\u202f%", "52\u202f%", "53\u202f%", "54\u202f%", "55\u202f%"],
    ]);
  });
});

describe("labels of long names", () => {
  const layers = [0, 10].flatMap((k) =>
    ["query", "value"].map((part) => `bert.encoder.layer.${k}.attention.self.${part}`),
  );

  test("lose their usual prefix, not the number of their block", () => {
    const usual = usualPrefix([...layers, "pooler"]);
    expect(usual).toBe("bert.encoder.layer.");
    expect(shortLabel(layers[0] ?? "", usual, 28)).toBe("\u20260.attention.self.query");
    expect(shortLabel(layers[2] ?? "", usual, 16)).toBe("\u202610.atte\u2026f.query");
    expect(shortLabel("pooler", usual, 28)).toBe("pooler");
  });

  test("keep the prefix where it is short enough, or where there is none", () => {
    expect(shortLabel("blocks.3", "blocks.", 28)).toBe("blocks.3");
    expect(usualPrefix(["layer1.0", "layer2.0", "fc"])).toBe("");
    expect(usualPrefix([])).toBe("");
  });
});
