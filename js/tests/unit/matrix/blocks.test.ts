import { expect, test } from "vitest";
import { blockLevels, blockNameOf } from "../../../src/matrix/blocks.ts";

test("layers in a numbered block belong to it, others to their parent", () => {
  expect(blockNameOf("blocks.3.attn.qkv")).toBe("blocks.3");
  expect(blockNameOf("encoder.layer.11.mlp")).toBe("encoder.layer.11");
  expect(blockNameOf("layer1.0")).toBe("layer1");
  expect(blockNameOf("stem.conv")).toBe("stem");
  expect(blockNameOf("conv1")).toBe("");
  expect(blockNameOf("0")).toBe("");
});

test("neighbors in one block have one bracket", () => {
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

test("a block that is itself a layer is part of its bracket", () => {
  const names = ["h.0.attn", "h.0.mlp", "h.0", "h.1.attn", "h.1"];
  expect(blockLevels(names)).toEqual([
    [
      { name: "0", from: 0, to: 3 },
      { name: "1", from: 3, to: 5 },
    ],
  ]);
});

test("stages of blocks are the second level", () => {
  const names = ["a.0.x", "a.0.y", "a.1.x", "a.1.y", "b.0.x", "b.0.y", "head"];
  const [blocks, stages] = blockLevels(names);
  expect(blocks?.map(({ name }) => name)).toEqual(["a.0", "a.1", "b.0"]);
  expect(stages).toEqual([
    { name: "a", from: 0, to: 4 },
    { name: "b", from: 4, to: 6 },
  ]);
});

test("a block of all layers has no bracket", () => {
  expect(blockLevels(["blocks.0", "blocks.1"])).toEqual([]);
  expect(blockLevels(["0", "1", "2"])).toEqual([]);
  expect(blockLevels([])).toEqual([]);
});
