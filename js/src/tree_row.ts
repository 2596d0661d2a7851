/** One line of the tree as an element: box, name, class, output shape, parameters. */

import { h, icon } from "./dom.ts";
import { layerName, plural, shape, short } from "./format.ts";
import { factsOf, type RowFacts } from "./tree_facts.ts";
import type { BoxState, Line, Node, Tree } from "./tree_model.ts";

interface RowState {
  readonly state: BoxState;
  readonly isOpen: boolean;
  /** Whether the module itself is chosen, not only what is below it. */
  readonly isOwn: boolean;
  readonly filter: Uint8Array | null;
}

const ARIA_CHECKED = { checked: "true", mixed: "mixed", unchecked: "false" } as const;

export function treeRow(tree: Tree, line: Line, row: RowState): HTMLElement {
  const { node } = line;
  const { name, type, times, size, params, reason } = lineWords(tree, node);
  const facts = factsOf(tree, node);
  const isDisabled = row.state === "disabled";
  const isFoldable = node.children.length > 0;
  const kind = tree.columns.name[node.first] === "" ? "" : `${type} ${times}`.trim();
  const element = h(
    "div",
    {
      class: `cka-row ${stateClasses(row, node)}`,
      role: "treeitem",
      "aria-level": node.depth + 1,
      "aria-posinset": line.position,
      "aria-setsize": line.siblings,
      "aria-expanded": isFoldable ? String(row.isOpen) : undefined,
      "aria-checked": row.state === "disabled" ? undefined : ARIA_CHECKED[row.state],
      "aria-disabled": isDisabled ? "true" : undefined,
      "aria-label": spoken([
        name,
        type,
        times,
        size && `output ${size}`,
        params > 0 && plural(params, "parameter"),
        reason,
      ]),
      "aria-description": described(facts) || undefined,
      title: help(tree, node, name, reason, row.filter),
    },
    h(
      "span",
      { class: "cka-twist", "data-part": isFoldable ? "twist" : undefined },
      isFoldable && icon("open"),
    ),
    h("span", { class: `cka-box cka-${row.state}`, "data-part": "box" }),
    h("span", { class: "cka-name" }, shortName(name, node)),
    h(
      "span",
      { class: "cka-columns" },
      h("span", { class: "cka-params" }, params > 0 ? short(params) : ""),
      h("span", { class: "cka-shape" }, size),
      h("span", { class: "cka-type" }, (isDisabled && reason) || kind),
    ),
  );
  element.style.setProperty("--depth", String(node.depth));
  return element;
}

/** Below the tree, all that is known of one line: names in full, then two of facts. */
export function aboutRow(tree: Tree, node: Node): HTMLElement[] {
  const { name, type, times, size, params, reason } = lineWords(tree, node);
  const { share, weights, output } = factsOf(tree, node);
  const each = node.kind === "run" ? "each " : "";
  const part = share && ` (${share})`;
  const numbers = params > 0 && each + plural(params, "parameter") + part;
  const line = (...parts: (string | false | null)[]) => {
    const text = parts.filter(Boolean).join(" \u00b7 ");
    return h("p", { title: text }, text);
  };
  return [
    h(
      "p",
      { title: name },
      h("span", { class: "cka-layer" }, name),
      name !== type && h("span", {}, ` ${type} ${times}`),
    ),
    line(numbers, ...weights),
    line(reason, size && `output ${size}`, ...output),
  ];
}

/** The words that a line and what is said about it have in common. */
function lineWords({ columns }: Tree, node: Node) {
  const { first } = node;
  const isRun = node.kind === "run";
  const type = columns.type[first] ?? "";
  return {
    name: isRun ? node.label : layerName(columns.name[first] ?? "", type),
    type,
    times: isRun ? `\u00d7${node.children.length}` : "",
    size: shape(columns.shape[first] ?? null),
    params: columns.params[first] ?? 0,
    reason: isRun ? null : (columns.reason[first] ?? null),
  };
}

function stateClasses({ state, isOwn, filter }: RowState, node: Node): string {
  const classes = [
    isOwn && "cka-own",
    state === "disabled" && "cka-greyed",
    filter && !filter[node.first] && "cka-context",
  ];
  return classes.filter(Boolean).join(" ");
}

function described({ share, weights, output }: RowFacts): string {
  return spoken([share && `${share} of the model`, ...weights, ...output]);
}

function spoken(parts: readonly (string | false | null)[]): string {
  return parts.filter(Boolean).join(", ");
}

/** The last word of a dotted name: the lines above say the rest. */
function shortName(name: string, node: Node): string {
  const end = node.kind === "run" ? name.indexOf("[") : name.length;
  const dot = name.lastIndexOf(".", end - 1);
  return node.depth > 0 && dot >= 0 ? name.slice(dot + 1) : name;
}

/** What a click on the box does, since that depends on what is below. */
function help(
  tree: Tree,
  node: Node,
  name: string,
  reason: string | null,
  filter: Uint8Array | null,
): string {
  const why = reason ? ` (${reason})` : "";
  if (reason && node.children.length === 0) return `${name}${why}`;
  const targets = tree.targets(node).filter((row) => !filter || filter[row]);
  if (targets.length === 1 && targets[0] === node.first) return name;
  const what = filter ? "the matches below" : plural(targets.length, "layer");
  return (
    `${name}${why}\nThe box chooses ${what}. ` +
    "Alt: only this module. Shift: all lines from the last one clicked."
  );
}
