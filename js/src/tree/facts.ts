/** Facts about a row of the tree that its line has no room for. */

import type { Tree, TreeNode } from "../state/tree.ts";
import { bytes, count, percent, plural } from "../ui/format.ts";

export interface RowFacts {
  /** Its share of the model's parameters, "0.7 %"; empty for the model itself. */
  readonly share: string;
  /** About its parameters: type and device, how many are its own, which are frozen. */
  readonly weights: readonly string[];
  /** About its output: type and device, size of an example, number of calls. */
  readonly output: readonly string[];
}

/** For a folded run, the facts that all of its members share. */
export function factsOf(tree: Tree, node: TreeNode): RowFacts {
  const facts = distinct(tree, node).map((row) => factsOfRow(tree, row));
  const common = (key: "weights" | "output") =>
    (facts[0]?.[key] ?? []).filter((fact) =>
      facts.every((other) => other[key].includes(fact)),
    );
  const share = facts[0]?.share ?? "";
  return { share, weights: common("weights"), output: common("output") };
}

/** Rows of a run with distinct facts; in a run of thousands most have the same. */
function distinct({ columns }: Tree, node: TreeNode): number[] {
  if (node.kind === "module") return [node.first];
  const rows = new Map(
    node.children.map(({ first }) => [columns.facts[first], first] as const),
  );
  return [...rows.values()];
}

function factsOfRow({ columns }: Tree, row: number): RowFacts {
  const facts = columns.facts[row];
  if (!facts) return { share: "", weights: [], output: [] };
  const { own, trainable, weights, output, calls } = facts;
  const params = columns.params[row] ?? 0;
  const whole = columns.params[0] ?? 0;
  const isPart = params > 0 && params < whole;
  // The reason why a row cannot be chosen already says so.
  const code = columns.code[row];
  const isCallsKnown = code === "not_called" || code === "called_repeatedly";
  return {
    share: isPart ? percent(params, whole) : "",
    weights: present(
      weights,
      own > 0 && own < params && `${count(own)} of its own`,
      params > 0 && trainableWords(trainable, params),
    ),
    output: present(
      output !== weights && output,
      facts.bytes > 0 && `${bytes(facts.bytes)} an example`,
      calls !== null && !isCallsKnown && plural(calls, "call"),
    ),
  };
}

function trainableWords(trainable: number, params: number): string {
  if (trainable === 0) return "frozen";
  return trainable < params ? `${count(trainable)} trainable` : "";
}

function present(...facts: (string | false)[]): string[] {
  return facts.filter((fact): fact is string => Boolean(fact));
}
