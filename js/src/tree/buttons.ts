/** What stands above a tree: presets with their counts, the search box, a chip for each class. */

import type { Tree } from "../state/tree.ts";
import { h, type IconName, icon, set } from "../ui/dom.ts";
import { count } from "../ui/format.ts";

type Commit = (chosen: Uint8Array) => void;

/** Less frequent classes are shown on request. */
export const FIRST_CHIPS = 6;

const PRESETS = {
  auto: "The layers chosen by default: blocks, stem, final norm and head",
  blocks: "The repeated blocks of the model",
  leaves: "Modules without children",
  all: "Every module that returns a tensor",
} as const;

export function presetButtons(
  tree: Tree,
  chosen: Uint8Array,
  commit: Commit,
): HTMLButtonElement[] {
  const buttons = Object.entries(PRESETS)
    .filter(([name]) => name in tree.columns.presets)
    .map(([name, help]) => segment(name, help, tree.preset(name), chosen, commit));
  const nothing = new Uint8Array(tree.size);
  return [...buttons, segment("none", "Choose nothing", nothing, chosen, commit)];
}

function segment(
  name: string,
  help: string,
  rows: Uint8Array,
  chosen: Uint8Array,
  commit: Commit,
): HTMLButtonElement {
  const size = total(rows);
  const props = {
    class: "cka-segment",
    type: "button",
    "data-key": name,
    "aria-pressed": String(rows.every((flag, row) => flag === chosen[row])),
    title: help,
    onclick: () => commit(rows),
  };
  const label = `${name[0]?.toUpperCase()}${name.slice(1)}`;
  const number = size > 0 && h("span", { class: "cka-number" }, count(size));
  return h("button", props, label, number);
}

/** A chip toggles all layers of its class, or with a filter those that match. */
export function chipButtons(
  tree: Tree,
  chosen: Uint8Array,
  filter: Uint8Array | null,
  limit: number,
  commit: Commit,
): { chips: HTMLButtonElement[]; rest: number } {
  const classes = tree.classes(filter);
  const chips = classes
    .slice(0, limit)
    .map(({ type, rows }) => chip(type, rows, chosen, filter !== null, commit));
  return { chips, rest: Math.max(0, classes.length - FIRST_CHIPS) };
}

export function moreButton(
  rest: number,
  isOpen: boolean,
  toggle: () => void,
): HTMLButtonElement {
  return h(
    "button",
    {
      class: "cka-chip cka-more",
      type: "button",
      "data-key": "more",
      "aria-expanded": String(isOpen),
      onclick: toggle,
    },
    isOpen ? "fewer" : `${rest} more`,
  );
}

function chip(
  type: string,
  rows: readonly number[],
  chosen: Uint8Array,
  isFiltered: boolean,
  commit: Commit,
): HTMLButtonElement {
  const on = rows.filter((row) => chosen[row]).length;
  const state = on === 0 ? "false" : on === rows.length ? "true" : "mixed";
  const where = isFiltered ? " that match" : "";
  const toggle = () => {
    const next = Uint8Array.from(chosen);
    for (const row of rows) next[row] = state === "true" ? 0 : 1;
    commit(next);
  };
  const props = {
    class: "cka-chip",
    type: "button",
    "data-key": `type ${type}`,
    "aria-pressed": state,
    title: `${on} of ${rows.length} ${type} layers${where} are chosen: toggle all`,
    onclick: toggle,
  };
  return h(
    "button",
    props,
    type,
    h("span", { class: "cka-number" }, count(rows.length)),
  );
}

export function total(flags: Uint8Array): number {
  return flags.reduce((sum, flag) => sum + flag, 0);
}

/** A button with an icon only. */
export function iconButton(name: IconName, onclick: () => void): HTMLButtonElement {
  const props = { class: "cka-button cka-quiet", type: "button", onclick };
  return h("button", props, icon(name));
}

/** Sets the name of a button and its tooltip. */
export function setHelp(button: HTMLElement, label: string, title: string): void {
  set(button, { "aria-label": label, title });
}

export function searchBox(name: string, oninput: () => void): HTMLInputElement {
  return h("input", {
    class: "cka-search",
    type: "search",
    placeholder: "Search: conv, layer?.*, type:Linear",
    "aria-label": `Search the layers of ${name}`,
    title:
      "Text, a glob (* is any text, with dots; ? a character; [0-3] a set), /regex/, " +
      "type:Linear, or depth:2. All words must match; boxes then act on matches only.",
    spellcheck: "false",
    autocomplete: "off",
    oninput,
  });
}
