import { describe, expect, test } from "vitest";
import { Tree, type TreeNode } from "../../../src/state/tree.ts";
import { matches } from "../../../src/tree/query.ts";
import { columnsFrom, presetNames, resnetColumns, vitColumns } from "../../fake.ts";

const columns = resnetColumns();
const tree = new Tree(columns);

function nodeOf(name: string, inTree = tree): TreeNode {
  const row = inTree.rowOf.get(name) ?? -1;
  const find = (nodes: readonly TreeNode[]): TreeNode | undefined => {
    for (const node of nodes) {
      if (node.kind === "module" && node.first === row) return node;
      const below = find(node.children);
      if (below) return below;
    }
    return undefined;
  };
  const node = find(inTree.roots);
  if (!node) throw new Error(`no node ${name}`);
  return node;
}

const names = (chosen: Uint8Array, inTree = tree) => inTree.namesOf(chosen);
const none = () => new Uint8Array(tree.size);

describe("a box stands for a sensible choice at its level", () => {
  test("of the root: stem, blocks, pool and head, not each of 59 modules", () => {
    expect(names(tree.toggled(none(), nodeOf(""), null))).toEqual(presetNames(columns));
  });

  test("of a stage: its blocks; of a block: itself; of a leaf: itself", () => {
    const toggledFrom = (name: string) =>
      names(tree.toggled(none(), nodeOf(name), null));
    expect(toggledFrom("layer2")).toEqual(["layer2.0", "layer2.1"]);
    expect(toggledFrom("layer2.0")).toEqual(["layer2.0"]);
    expect(toggledFrom("layer2.0.conv1")).toEqual(["layer2.0.conv1"]);
  });

  test("of a container without blocks: its leaves", () => {
    const vit = new Tree(vitColumns(2));
    const chosen = vit.toggled(
      new Uint8Array(vit.size),
      nodeOf("blocks.0.mlp", vit),
      null,
    );
    expect(names(chosen, vit)).toEqual([
      "blocks.0.mlp.fc1",
      "blocks.0.mlp.act",
      "blocks.0.mlp.fc2",
    ]);
  });

  test("a row that cannot be chosen is never chosen", () => {
    expect(names(tree.toggled(none(), nodeOf("dropout"), null))).toEqual([]);
    const all = tree.preset("all");
    expect(all[tree.rowOf.get("dropout") ?? 0]).toBe(0);
  });
});

describe("tri-state", () => {
  test("a parent is checked, mixed or unchecked by what is below", () => {
    const state = (list: string[], name: string) =>
      tree.boxes(tree.chosenBy(list))(nodeOf(name));
    expect(state(["layer1.0", "layer1.1"], "layer1")).toBe("checked");
    expect(state(["layer1.0"], "layer1")).toBe("mixed");
    expect(state([], "layer1")).toBe("unchecked");
    expect(state(["layer1.0.conv1"], "layer1.0")).toBe("mixed");
    expect(state(["layer1.0.conv1"], "layer1")).toBe("mixed");
    expect(state(presetNames(columns), "")).toBe("checked");
    expect(state([], "dropout")).toBe("disabled");
  });

  test("pressing a checked parent unchecks everything below it", () => {
    const chosen = tree.chosenBy(["layer1.0", "layer1.1", "layer1.0.bn1", "fc"]);
    expect(names(tree.toggled(chosen, nodeOf("layer1"), null))).toEqual(["fc"]);
  });

  test("pressing a mixed parent checks the rest and loses nothing", () => {
    const chosen = tree.chosenBy(["layer1.0", "layer1.1.bn1"]);
    expect(names(tree.toggled(chosen, nodeOf("layer1"), null))).toEqual([
      "layer1.0",
      "layer1.1",
      "layer1.1.bn1",
    ]);
  });
});

describe("under a filter", () => {
  const filter = matches("conv", columns);

  test("checking a parent touches matches only and the parent is mixed", () => {
    const chosen = tree.toggled(none(), nodeOf("layer1"), matches("bn1", columns));
    expect(names(chosen)).toEqual(["layer1.0.bn1", "layer1.1.bn1"]);
    expect(tree.boxes(chosen)(nodeOf("layer1"))).toBe("mixed");
  });

  test("unchecking a parent leaves hidden rows chosen", () => {
    const bn = matches("bn1", columns);
    const chosen = tree.chosenBy(["layer1.0", "layer1.0.bn1", "layer1.1.bn1"]);
    expect(names(tree.toggled(chosen, nodeOf("layer1"), bn))).toEqual(["layer1.0"]);
  });

  test("matches are shown with their ancestors and nothing else", () => {
    const lines = tree.lines(() => true, filter).map((line) => line.node.label);
    expect(lines).toContain("layer3.1.conv2");
    expect(lines).toContain("layer3.1");
    expect(lines).not.toContain("bn1");
    expect(lines).not.toContain("fc");
  });

  test("types are counted among matches", () => {
    const types = tree.classes(filter).map(({ type, rows }) => [type, rows.length]);
    expect(types).toEqual([["Conv2d", 17]]);
    expect(tree.classes(null)[0]).toMatchObject({ type: "BatchNorm2d" });
  });
});

describe("folding", () => {
  test("like siblings are one line, which a chosen one leaves folded", () => {
    const vit = new Tree(vitColumns());
    const chosen = vit.preset("auto");
    const open = vit.opened(chosen, 40);
    const labels = vit
      .lines((node) => open.has(node.id), null)
      .map(({ node }) => node.label);
    expect(labels).toContain("blocks.[0\u201311]");
    expect(labels).toHaveLength(7);
    const run = vit.lines((node) => open.has(node.id), null)[4]?.node as TreeNode;
    expect(run.kind).toBe("run");
    expect(run.children).toHaveLength(12);
    expect(vit.boxes(chosen)(run)).toBe("checked");
    expect(names(vit.toggled(chosen, run, null), vit)).toEqual([
      "patch_embed",
      "norm",
      "head",
    ]);
  });

  test("siblings of other sizes or stems are not one run", () => {
    const rows = ["", "a", "a.0", "a.1", "a.2", "a.3", "b1", "b2", "c3"];
    const odd = new Tree(
      columnsFrom(
        rows.map((name) => ({ name, type: "Linear", params: name === "a.2" ? 5 : 1 })),
        {},
      ),
    );
    const labels = odd.lines(() => true, null).map(({ node }) => node.label);
    expect(labels.some((label) => label.includes("["))).toBe(false);
  });

  test("position and number of siblings count the visible ones", () => {
    const lines = tree.lines((node) => node.depth < 1, null);
    expect(lines[0]).toMatchObject({ position: 1, siblings: 1 });
    expect(lines.at(-1)).toMatchObject({ position: 11, siblings: 11 });
  });
});

test("names go to the kernel in execution order, unknown ones are left out", () => {
  const order = columns.order.map((value) => (value === null ? null : 1000 - value));
  const reversed = new Tree({ ...columns, order });
  expect(reversed.namesOf(reversed.chosenBy(["conv1", "fc", "nothing"]))).toEqual([
    "fc",
    "conv1",
  ]);
});

test("10 000 modules are flattened, filtered and toggled within a blink", () => {
  const rows = Array.from({ length: 1000 }, (_, k) => [
    { name: `layer${k}x`, type: `Block${k % 7}`, params: k },
    ...Array.from({ length: 9 }, (_, j) => ({
      name: `layer${k}x.part${j}y`,
      type: "Linear",
      params: j,
    })),
  ]).flat();
  const big = new Tree(columnsFrom([{ name: "", type: "Net" }, ...rows], {}));
  const root = big.roots[0] as TreeNode;
  const start = performance.now();
  const filter = matches("part3y", big.columns);
  const lines = big.lines(() => true, filter);
  const chosen = big.toggled(new Uint8Array(big.size), root, filter);
  big.boxes(chosen)(root);
  const took = performance.now() - start;
  expect(lines).toHaveLength(2001);
  expect(big.namesOf(chosen)).toHaveLength(1000);
  expect(took).toBeLessThan(250);
});

describe("inverting a choice", () => {
  test("inverts every layer that can be chosen and no other; twice changes nothing", () => {
    const auto = tree.preset("auto");
    const inverse = tree.inverted(auto, null);
    for (let row = 0; row < tree.size; row++) {
      expect(inverse[row]).toBe(tree.canChoose(row) && !auto[row] ? 1 : 0);
    }
    expect(tree.inverted(inverse, null)).toEqual(auto);
  });

  test("leaves rows hidden by a filter as they are", () => {
    const filter = matches("type:BasicBlock", columns);
    const chosen = tree.chosenBy(["conv1", "layer1.0", "layer2.1"]);
    expect(names(tree.inverted(chosen, filter))).toEqual([
      "conv1",
      ...["layer1.1", "layer2.0", "layer3.0", "layer3.1", "layer4.0", "layer4.1"],
    ]);
  });

  test("reaches the members of a folded run one by one", () => {
    const vit = new Tree(vitColumns());
    const filter = matches("type:Block", vit.columns);
    const chosen = vit.inverted(vit.chosenBy(["blocks.0", "blocks.11"]), filter);
    expect(names(chosen, vit)).toEqual(
      Array.from({ length: 10 }, (_, k) => `blocks.${k + 1}`),
    );
  });
});
