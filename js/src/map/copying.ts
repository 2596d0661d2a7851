/** What can be copied as text: a cell, the map, the call that repeats the comparison. */

import { type PerSide, SIDES } from "../protocol.ts";
import type { Comparison } from "../state/comparison.ts";
import { h, icon, setText } from "../ui/dom.ts";
import { plural } from "../ui/format.ts";
import { type Cell, type MapView, pairOf } from "./view.ts";
import { errorAt, readout, valueAt } from "./words.ts";

const CONFIRMED_MS = 1600;

/** Puts text on the clipboard, also where a page may only copy its selection. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelected(text);
  }
}

function copySelected(text: string): boolean {
  const before = document.activeElement;
  const area = h("textarea", { class: "cka-hidden", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  } finally {
    area.remove();
    if (before instanceof HTMLElement) before.focus({ preventScroll: true });
  }
}

/** A button that copies the text of the moment, and says so. */
export function copyButton(
  label: string,
  title: string,
  textNow: () => string,
): HTMLButtonElement {
  const words = h("span", { "aria-live": "polite" }, label);
  let timer: ReturnType<typeof setTimeout> | undefined;
  const press = async () => {
    const copied = await copyText(textNow());
    setText(words, copied ? "Copied" : "Not copied");
    clearTimeout(timer);
    timer = setTimeout(() => setText(words, label), CONFIRMED_MS);
  };
  const props = { class: "cka-button cka-quiet cka-copy", type: "button", title };
  return h("button", { ...props, onclick: press }, icon("copy"), words);
}

/** "ResNet-18 layer1.0 × ViT-B/16 blocks.0: CKA 0.9421 ± 0.0040 (40 batches)" */
export function cellText(comparison: Comparison, view: MapView, cell: Cell): string {
  const { names, value, facts } = readout(comparison, view, cell);
  const [first, second] = comparison.names;
  const layers = `${first} ${names[0]} \u00d7 ${second} ${names[1]}`;
  const known = Number.isFinite(valueAt(view, cell));
  const batches = plural(view.shown?.frame.batch ?? 0, "batch", "batches");
  return known
    ? `${layers}: ${metricName(comparison.metric)} ${value} (${batches})`
    : `${layers}: ${facts}`;
}

export function metricName(metric: string): string {
  return metric.replace(/^cka/, "CKA");
}

/** Values as tab-separated text, an empty line, then standard errors. */
export function mapText(comparison: Comparison, view: MapView): string {
  const { rows, columns } = view;
  const name = (axis: typeof rows, k: number) =>
    comparison.layerName(axis.side, axis.names[k] ?? "").replace(/\s/g, " ");
  const head = columns.names.map((_, col) => name(columns, col));
  const block = (title: string, at: (cell: Cell) => number) => [
    [title, ...head].join("\t"),
    ...rows.names.map((_, row) =>
      [name(rows, row), ...head.map((_, col) => decimal(at({ row, col })))].join("\t"),
    ),
  ];
  return [
    ...block(metricName(comparison.metric), (cell) => valueAt(view, cell)),
    "",
    ...block("standard error", (cell) => errorAt(view, cell)),
    "",
  ].join("\n");
}

/** Pairs of layers with their values as tab-separated text, one per line. */
export function pairsText(
  comparison: Comparison,
  view: MapView,
  cells: readonly Cell[],
): string {
  const clean = (text: string) => text.replace(/\s/g, " ");
  const lines = cells.map((cell) => {
    const pair = pairOf(view, cell);
    const names = SIDES.map((side) => comparison.layerName(side, pair[side]));
    const numbers = [valueAt(view, cell), errorAt(view, cell)].map(decimal);
    return [...names.map(clean), ...numbers].join("\t");
  });
  const names = comparison.names.map(clean);
  const head = [...names, metricName(comparison.metric), "standard error"].join("\t");
  return [head, ...lines, ""].join("\n");
}

function decimal(number: number): string {
  return Number.isNaN(number) ? "" : String(Number(number.toFixed(6)));
}

/** The Python call that repeats the comparison, as the kernel's `explorer.code`. */
export function codeText(
  { code }: Comparison,
  [rows, columns]: PerSide<readonly string[]>,
): string {
  const [before = "", between = "", after = ""] = code;
  return `${before}${list(rows)}${between}${list(columns)}${after}`;
}

/** A list of strings in JSON is one in Python, too; here with one name per line. */
function list(names: readonly string[]): string {
  if (names.length === 0) return "[]";
  const lines = names.map((name) => `        ${JSON.stringify(name)},\n`);
  return `[\n${lines.join("")}    ]`;
}
