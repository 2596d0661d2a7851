/** Blocks of layers that follow each other on an axis. Pure functions. */

import { commonPrefix } from "./labels.ts";

/** Layers `from` up to, but not including, `to`. */
export interface Block {
  readonly name: string;
  readonly from: number;
  readonly to: number;
}

/** The blocks, then the stages that they belong to, if there are several. */
export function blockLevels(names: readonly string[]): Block[][] {
  const blocks = names.map(blockNameOf);
  const stages = blocks.map((name) => name.split(".").slice(0, -1).join("."));
  return [blocks, stages]
    .map((level) => runsOf(names, level))
    .filter(({ length }, level) => length > level);
}

/** Runs of at least two layers; a run of all layers means nothing and is left out. */
function runsOf(names: readonly string[], level: readonly string[]): Block[] {
  const prefix = commonPrefix(names).length;
  const known = new Set(level);
  const nameAt = (k: number) => {
    const own = names[k] ?? "";
    return known.has(own) ? own : (level[k] ?? "");
  };
  const blocks: Block[] = [];
  let from = 0;
  for (let k = 1; k <= names.length; k++) {
    const name = nameAt(from);
    if (k < names.length && nameAt(k) === name) continue;
    const shown = name.slice(prefix);
    if (shown !== "" && k - from > 1 && k - from < names.length) {
      blocks.push({ name: shown, from, to: k });
    }
    from = k;
  }
  return blocks;
}

/** "blocks.3" for "blocks.3.attn.qkv"; the parent of a layer in no numbered module. */
export function blockNameOf(layer: string): string {
  const parts = layer.split(".");
  const number = parts.findIndex((part, k) => k > 0 && /^\d+$/.test(part));
  const isInside = number > 0 && number < parts.length - 1;
  return parts.slice(0, isInside ? number + 1 : -1).join(".");
}
