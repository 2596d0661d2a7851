/** One line of the tree as an element: box, name, class, output shape, parameters. */

import type { BoxState, Tree, TreeLine, TreeNode } from "../state/tree.ts";
import { h, icon } from "../ui/dom.ts";
import { layerName, plural, shape, short } from "../ui/format.ts";
import { factsOf, type RowFacts } from "./facts.ts";

interface RowState {
  readonly state: BoxState;
  readonly isOpen: boolean;
  /** Whether the module itself is chosen, not only modules below it. */
  readonly isOwn: boolean;
  readonly filter: Uint8Array | null;
}

const ARIA_CHECKED = { checked: "true", mixed: "mixed", unchecked: "false" } as const;

export function treeRow(tree: Tree, line: TreeLine, row: RowState): HTMLElement {
  const { node } = line;
  const words = lineWords(tree, node);
  const isFoldable = node.children.length > 0;
  const props = {
    class: `cka-row ${stateClasses(row, node)}`,
    title: help(tree, node, words.name, words.reason, row.filter),
    ...ariaOf(line, row),
    ...ariaWords(words, factsOf(tree, node)),
  };
  const twist = { class: "cka-twist", "data-part": isFoldable ? "twist" : undefined };
  const element = h(
    "div",
    props,
    h("span", twist, isFoldable && icon("open")),
    h("span", { class: `cka-box cka-${row.state}`, "data-part": "box" }),
    h("span", { class: "cka-name" }, shortName(words, node)),
    columnsOf(words, row.state === "disabled"),
  );
  element.style.setProperty("--depth", String(node.depth));
  return element;
}

/** Right of the name, as far as there is room; the first column stays longest. */
function columnsOf({ name, type, times, size, params, reason }: Words, isOff: boolean) {
  const kind = name === type ? "" : `${type} ${times}`.trim();
  return h(
    "span",
    { class: "cka-columns" },
    h("span", { class: "cka-params" }, params > 0 ? short(params) : ""),
    h("span", { class: "cka-shape" }, size),
    h("span", { class: "cka-type" }, (isOff && reason) || kind),
  );
}

function ariaOf({ node, position, siblings }: TreeLine, { state, isOpen }: RowState) {
  return {
    role: "treeitem",
    "aria-level": node.depth + 1,
    "aria-posinset": position,
    "aria-setsize": siblings,
    "aria-expanded": node.children.length > 0 ? String(isOpen) : undefined,
    "aria-checked": state === "disabled" ? undefined : ARIA_CHECKED[state],
    "aria-disabled": state === "disabled" ? "true" : undefined,
  };
}

function ariaWords(words: Words, facts: RowFacts) {
  const { name, type, times, size, params, reason } = words;
  const { share, weights, output } = facts;
  const label = [
    name,
    type,
    times,
    size && `output ${size}`,
    params > 0 && plural(params, "parameter"),
    reason,
  ];
  const more = [share && `${share} of the model`, ...weights, ...output];
  return {
    "aria-label": joined(label),
    "aria-description": joined(more) || undefined,
  };
}

/** All that is known of one line: its name in full, then two lines of facts. */
export function aboutRow(tree: Tree, node: TreeNode): HTMLElement[] {
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

type Words = ReturnType<typeof lineWords>;

/** Words that a line and the description of it share. */
function lineWords({ columns }: Tree, node: TreeNode) {
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

function stateClasses({ state, isOwn, filter }: RowState, node: TreeNode): string {
  const classes = [
    isOwn && "cka-own",
    state === "disabled" && "cka-greyed",
    filter && !filter[node.first] && "cka-context",
  ];
  return classes.filter(Boolean).join(" ");
}

function joined(parts: readonly (string | false | null)[]): string {
  return parts.filter(Boolean).join(", ");
}

/** The last part of a dotted name: the lines above have the rest. */
function shortName({ name, type }: Words, node: TreeNode): string {
  const mark = node.kind === "run" ? "[" : type === "entry" ? ":" : "";
  const end = mark ? name.indexOf(mark) : name.length;
  const dot = name.lastIndexOf(".", end - 1);
  return node.depth > 0 && dot >= 0 ? name.slice(dot + 1) : name;
}

/** What a click on the box does: it depends on the modules below. */
function help(
  tree: Tree,
  node: TreeNode,
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
