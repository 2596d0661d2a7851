/** What is known of a row of the tree and too much for its line. */

import type { Node, Tree } from "../state/tree.ts";
import { bytes, count, percent, plural } from "../ui/format.ts";

export interface RowFacts {
  /** Its share of the model's parameters, "0.7 %"; empty of the model itself. */
  readonly share: string;
  /** Of its parameters: type and device, own ones, frozen ones. */
  readonly weights: readonly string[];
  /** Of what it returns: type and device, size of an example, number of calls. */
  readonly output: readonly string[];
}

/** A folded run says what all of its members say. */
export function factsOf(tree: Tree, node: Node): RowFacts {
  const facts = distinct(tree, node).map((row) => factsOfRow(tree, row));
  const common = (key: "weights" | "output") =>
    (facts[0]?.[key] ?? []).filter((fact) =>
      facts.every((other) => other[key].includes(fact)),
    );
  const share = facts[0]?.share ?? "";
  return { share, weights: common("weights"), output: common("output") };
}

/** Rows of a run that say something new; most of thousands say the same. */
function distinct({ columns }: Tree, node: Node): number[] {
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
  // The reason of a row that cannot be chosen says it already.
  const isCallsKnown = /called/.test(columns.reason[row] ?? "");
  return {
    share: isPart ? percent(params, whole) : "",
    weights: told(
      weights,
      own > 0 && own < params && `${count(own)} its own`,
      params > 0 && trainableWords(trainable, params),
    ),
    output: told(
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

function told(...facts: (string | false)[]): string[] {
  return facts.filter((fact): fact is string => Boolean(fact));
}
