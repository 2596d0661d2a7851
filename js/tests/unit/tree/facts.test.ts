import { expect, test } from "vitest";
import { Tree, type TreeNode } from "../../../src/state/tree.ts";
import { factsOf } from "../../../src/tree/facts.ts";
import { bytes, percent } from "../../../src/ui/format.ts";
import { columnsFrom, vitColumns } from "../../fake.ts";

const ROOT = { name: "", type: "Net", params: 2000 };

/** The only child of a model of 2 000 parameters. */
function facts(row: Omit<Parameters<typeof columnsFrom>[0][number], "name" | "type">) {
  const child = { name: "part", type: "Part", ...row };
  const tree = new Tree(columnsFrom([ROOT, child], {}));
  return factsOf(tree, tree.roots[0]?.children[0] as TreeNode);
}

test("parameters: share, how many are its own or frozen, type and device", () => {
  const { share, weights } = facts({ params: 500, facts: { own: 20, trainable: 0 } });
  expect(share).toBe("25\u202f%");
  expect(weights).toEqual(["float32 on cpu", "20 of its own", "frozen"]);
  expect(facts({ params: 500, facts: { trainable: 480 } }).weights).toContain(
    "480 trainable",
  );
});

test("few bits and no numbers at all are flagged", () => {
  const few = facts({ params: 500, facts: { weights: "4-bit on cuda:0" } });
  expect(few.weights).toContain("4-bit on cuda:0");
  const none = facts({ params: 500, facts: { weights: "float32 on meta" } });
  expect(none.weights).toContain("float32 on meta");
});

test("the type and device of an output are stated where they differ from the weights'", () => {
  const row = { params: 500, shape: [null, 8] };
  expect(facts(row).output).toEqual(["32\u202fB an example", "1 call"]);
  expect(
    facts({ ...row, facts: { output: "float16 on cuda:0", bytes: 16 } }).output,
  ).toEqual(["float16 on cuda:0", "16\u202fB an example", "1 call"]);
});

test("calls are stated once, and not before they are known", () => {
  expect(
    facts({
      reason: "called 3 times",
      code: "called_repeatedly",
      facts: { calls: 3 },
    }).output,
  ).toEqual([]);
  expect(facts({ facts: { calls: null } }).output).toEqual([]);
});

test("a folded run has the facts that all of its members share", () => {
  const vit = new Tree(vitColumns());
  const run = vit.roots[0]?.children.find(({ label }) => label === "blocks")
    ?.children[0] as TreeNode;
  expect(run.kind).toBe("run");
  expect(factsOf(vit, run).share).toBe("8.2\u202f%");
  expect(factsOf(vit, run).weights).toEqual(["float32 on cpu"]);
  const facts = vit.columns.facts.map((of, row) =>
    vit.columns.name[row] === "blocks.7" ? { ...of, weights: "int8 on cpu" } : of,
  );
  const mixed = new Tree({ ...vit.columns, facts });
  expect(factsOf(mixed, run).weights).toEqual([]);
});

test("bytes and shares are short", () => {
  expect([32, 3072, 802816, 3211264].map(bytes)).toEqual([
    "32\u202fB",
    "3.07\u202fkB",
    "803\u202fkB",
    "3.21\u202fMB",
  ]);
  expect([1, 7, 120, 999].map((part) => percent(part, 1000))).toEqual([
    "0.1\u202f%",
    "0.7\u202f%",
    "12\u202f%",
    "100\u202f%",
  ]);
  expect(percent(1, 100000)).toBe("<0.1\u202f%");
});
