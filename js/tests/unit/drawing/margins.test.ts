import { describe, expect, test } from "vitest";
import { geometryFor } from "../../../src/drawing/layout.ts";
import {
  type Axis,
  type Bracket,
  bracketsOf,
  dendrogramPath,
  Margins,
} from "../../../src/drawing/margins.ts";
import { blockLevels } from "../../../src/matrix/blocks.ts";
import { branchesOf, clusterRows } from "../../../src/matrix/clusters.ts";

const RESNET = [1, 2, 3, 4].flatMap((stage) =>
  [0, 1].flatMap((k) => ["conv1", "conv2"].map((part) => `layer${stage}.${k}.${part}`)),
);
const VIT = [0, 1, 2, 3].flatMap((k) => [`blocks.${k}.attn`, `blocks.${k}.mlp`]);
const widthOf = (text: string) => 6 * text.length;

function brackets(names: readonly string[], pixels: number, span?: [number, number]) {
  return bracketsOf(
    blockLevels([...names, "head"]),
    span ?? [0, names.length + 1],
    pixels,
    widthOf,
  );
}

function namesOf(found: readonly Bracket[]): string[] {
  return found.map(({ name }) => name);
}

describe("brackets", () => {
  test("are those of the finest level whose names fit", () => {
    expect(namesOf(brackets(RESNET, 900))).toHaveLength(8);
    expect(namesOf(brackets(RESNET, 900))[1]).toBe("layer1.1");
    expect(namesOf(brackets(RESNET, 300))).toEqual([
      ...["layer1", "layer2", "layer3", "layer4"],
    ]);
    expect(namesOf(brackets(VIT, 150))).toEqual(["0", "1", "2", "3"]);
  });

  test("are where their layers are, apart from each other", () => {
    const found = brackets(RESNET, 850);
    expect(found[0]?.from).toBeCloseTo(1.5);
    expect(found[0]?.to).toBeCloseTo(98.5);
    found.slice(1).forEach(({ from }, k) => {
      expect(from).toBeGreaterThan((found[k] as Bracket).to);
    });
  });

  test("follow the zoom and lose the name that has no room at the edge", () => {
    const found = brackets(RESNET, 400, [1.5, 4]);
    expect(namesOf(found)).toEqual(["layer1.0", "layer1.1"]);
    expect(found[0]).toMatchObject({ from: 1.5, to: 78.5 });
    expect(namesOf(brackets(RESNET, 400, [1.8, 6]))).toEqual([
      ...["", "layer1.1", "layer2.0"],
    ]);
  });

  test("vanish where there is no room for them", () => {
    expect(brackets(RESNET, 20)).toEqual([]);
    const scattered = ["a.0", "a.1", "b.0", "c", "b.1", "b.2", "d", "a.2", "a.3"];
    expect(namesOf(brackets(scattered, 200))).toEqual(["a", "b", "a"]);
    expect(brackets(scattered, 120)).toHaveLength(3);
    expect(brackets(scattered, 60)).toEqual([]);
    expect(brackets([], 300)).toEqual([]);
  });
});

test("a dendrogram goes up from both parts and across", () => {
  const tree = clusterRows({ rows: 2, cols: 1, values: Float32Array.of(0, 0.5) });
  const path = dendrogramPath(branchesOf(tree), (along, away) => `${along} ${away}`);
  expect(path).toBe("M0.5 0L0.5 1L1.5 1L1.5 0");
});

test("margins hold titles, brackets and a dendrogram, and names only as text", () => {
  const names = ["layer1.0", "layer1.1", "<img src=x>.0", "<img src=x>.1", "fc"];
  const axis = (title: string): Axis => ({ title, names, branches: [] });
  const branches = [{ middles: [0.5, 1.5], heights: [0, 0, 1] }] as const;
  const margins = new Margins();
  const geometry = geometryFor(1000, {
    ...{ rows: 5, cols: 5, rowLabel: 60, columnLabel: 60 },
    ...{ rowBlocks: true, columnBlocks: true, rowTree: true, columnTree: false },
    isSquare: false,
  });
  const rows = { ...axis("Net A"), branches };
  const plan = { rows, columns: axis("Net B"), geometry, depth: null };
  margins.set(plan, "sans-serif");
  margins.draw({ rows: [0, 5], cols: [0, 5] });
  const texts = [...margins.element.querySelectorAll("text")].map((t) => t.textContent);
  expect(texts).toEqual([
    ...["Net B", "Net A", "layer1", "<img src=x>", "layer1", "<img src=x>"],
  ]);
  expect(margins.element.querySelectorAll(".cka-dendrogram")).toHaveLength(1);
  expect(margins.element.querySelector("img")).toBeNull();
});

test("the line of equal depths goes from corner to corner, also of a flipped map", () => {
  const axis = (title: string, length: number): Axis => ({
    ...{ title, branches: [], names: Array(length).fill("") },
  });
  const geometry = geometryFor(1000, {
    ...{ rows: 2, cols: 4, rowLabel: 60, columnLabel: 60, isSquare: true },
    ...{ rowBlocks: false, columnBlocks: false, rowTree: false, columnTree: false },
  });
  const size = geometry.width - geometry.left - geometry.right;
  const lineOf = (depth: "down" | "up") => {
    const margins = new Margins();
    margins.set({ rows: axis("A", 2), columns: axis("B", 4), geometry, depth }, "x");
    margins.draw({ rows: [0, 2], cols: [0, 4] });
    return margins.element.querySelector(".cka-equal-depth")?.getAttribute("d");
  };
  expect(lineOf("down")).toBe(`M0 0L${size} ${geometry.height}`);
  expect(lineOf("up")).toBe(`M0 ${geometry.height}L${size} 0`);
});
