/**
 * A model's tree and what is chosen of it. Pure data, no DOM.
 *
 * A box stands for a choice that makes sense at its level: the blocks below it if there
 * are any, else the module itself if it is a block, else the leaves below it.
 */

import type { TreeColumns } from "../protocol.ts";

export type BoxState = "checked" | "mixed" | "unchecked" | "disabled";

/** A line of the tree: a module, or a run of alike siblings folded into one line. */
export interface Node {
  readonly id: string;
  readonly kind: "module" | "run";
  /** Row of the module, or of the first module of a run. */
  readonly first: number;
  /** One past the last row below. */
  readonly end: number;
  readonly depth: number;
  readonly label: string;
  readonly children: readonly Node[];
}

export interface Line {
  readonly node: Node;
  readonly position: number;
  readonly siblings: number;
}

/** Two alike siblings are read faster than a folded line. */
const MIN_RUN = 3;

export class Tree {
  readonly columns: TreeColumns;
  readonly size: number;
  readonly roots: readonly Node[];
  readonly rowOf: ReadonlyMap<string, number>;
  private readonly ends: Int32Array;
  private readonly grain: Uint8Array;
  private readonly leaf: Uint8Array;
  private readonly grainBefore: Int32Array;
  private readonly leafBefore: Int32Array;

  constructor(columns: TreeColumns) {
    this.columns = columns;
    this.size = columns.name.length;
    this.rowOf = new Map(columns.name.map((name, row) => [name, row]));
    this.ends = endsOf(columns.depth);
    const { auto = [], blocks = [], leaves = [] } = columns.presets;
    this.grain = this.flags([...auto, ...blocks].filter((row) => this.canChoose(row)));
    this.leaf = this.flags(leaves.filter((row) => this.canChoose(row)));
    this.grainBefore = prefixSums(this.grain);
    this.leafBefore = prefixSums(this.leaf);
    this.roots = this.nodes(0, this.size, 0);
  }

  canChoose(row: number): boolean {
    return this.columns.reason[row] === null && row >= 0;
  }

  endOf(row: number): number {
    return this.ends[row] ?? row + 1;
  }

  /** Rows that a click on the node's box is about, before any filter. */
  targets(node: Node): number[] {
    const self = node.kind === "module" ? node.first : -1;
    const from = self < 0 ? node.first : self + 1;
    if (this.between(this.grainBefore, from, node.end) > 0) {
      return this.marked(this.grain, from, node.end);
    }
    if (self >= 0 && this.grain[self]) return [self];
    if (this.between(this.leafBefore, from, node.end) > 0) {
      return this.marked(this.leaf, from, node.end);
    }
    return self >= 0 && this.canChoose(self) ? [self] : [];
  }

  /** Chosen rows with the node's box pressed; a filter keeps hidden rows untouched. */
  toggled(chosen: Uint8Array, node: Node, filter: Uint8Array | null): Uint8Array {
    const below = range(node.first, node.end).filter((row) => this.canChoose(row));
    const shown = filter ? below.filter((row) => filter[row]) : this.targets(node);
    const all = shown.length > 0 && shown.every((row) => chosen[row]);
    const next = Uint8Array.from(chosen);
    if (!all) for (const row of shown) next[row] = 1;
    else for (const row of filter ? shown : below) next[row] = 0;
    return next;
  }

  /** Layers that a filter leaves to choose from, whether folded or not. */
  choosable(filter: Uint8Array | null): number[] {
    return range(0, this.size).filter(
      (row) => this.canChoose(row) && (!filter || filter[row]),
    );
  }

  /** All of them the other way round; what a filter hides stays as it is. */
  inverted(chosen: Uint8Array, filter: Uint8Array | null): Uint8Array {
    const next = Uint8Array.from(chosen);
    for (const row of this.choosable(filter)) next[row] = chosen[row] ? 0 : 1;
    return next;
  }

  boxes(chosen: Uint8Array): (node: Node) => BoxState {
    const total = prefixSums(chosen);
    const grains = prefixSums(chosen.map((on, row) => on & (this.grain[row] ?? 0)));
    const leaves = prefixSums(chosen.map((on, row) => on & (this.leaf[row] ?? 0)));
    return (node) => {
      const self = node.kind === "module" ? node.first : -1;
      const from = self < 0 ? node.first : self + 1;
      const any = this.between(total, node.first, node.end) > 0;
      const grain = this.between(this.grainBefore, from, node.end);
      if (grain > 0) return box(any, this.between(grains, from, node.end) === grain);
      if (self >= 0 && this.grain[self]) return box(any, chosen[self] === 1);
      const leaf = this.between(this.leafBefore, from, node.end);
      if (leaf > 0) return box(any, this.between(leaves, from, node.end) === leaf);
      if (self < 0 || !this.canChoose(self)) return "disabled";
      return box(any, chosen[self] === 1);
    };
  }

  /** Names in execution order, as they go to the kernel. */
  namesOf(chosen: Uint8Array): string[] {
    const order = (row: number) => this.columns.order[row] ?? Number.MAX_SAFE_INTEGER;
    return range(0, this.size)
      .filter((row) => chosen[row])
      .sort((a, b) => order(a) - order(b) || a - b)
      .map((row) => this.columns.name[row] as string);
  }

  chosenBy(names: readonly string[]): Uint8Array {
    const rows = names.map((name) => this.rowOf.get(name) ?? -1);
    return this.flags(rows.filter((row) => row >= 0));
  }

  preset(name: string): Uint8Array {
    const rows = this.columns.presets[name] ?? [];
    return this.flags(rows.filter((row) => this.canChoose(row)));
  }

  /** Classes of the rows that can be chosen, the most frequent first. */
  classes(filter: Uint8Array | null): { type: string; rows: number[] }[] {
    const found = new Map<string, number[]>();
    for (const row of this.choosable(filter)) {
      const type = this.columns.type[row] ?? "";
      const rows = found.get(type);
      if (rows) rows.push(row);
      else found.set(type, [row]);
    }
    return [...found]
      .map(([type, rows]) => ({ type, rows }))
      .sort((a, b) => b.rows.length - a.rows.length || a.type.localeCompare(b.type));
  }

  /** Lines to draw: open branches, or with a filter the matches and their ancestors. */
  lines(isOpen: (node: Node) => boolean, filter: Uint8Array | null): Line[] {
    const hits = filter ? prefixSums(filter) : null;
    const shown: Line[] = [];
    const walk = (nodes: readonly Node[]) => {
      const kept = hits
        ? nodes.filter((n) => this.between(hits, n.first, n.end) > 0)
        : nodes;
      kept.forEach((node, k) => {
        shown.push({ node, position: k + 1, siblings: kept.length });
        if (node.children.length > 0 && isOpen(node)) walk(node.children);
      });
    };
    walk(this.roots);
    return shown;
  }

  /** Ids of the nodes to open so that the chosen rows are seen, runs left folded. */
  opened(chosen: Uint8Array, limit: number): Set<string> {
    const sums = prefixSums(chosen);
    const open = new Set<string>();
    let level = [...this.roots];
    let lines = level.length;
    while (level.length > 0) {
      const next: Node[] = [];
      for (const node of level) {
        const inside = this.between(sums, node.first + 1, node.end) > 0;
        const wanted = node.depth === 0 || (node.kind === "module" && inside);
        if (node.children.length === 0 || !wanted) continue;
        if (node.depth > 0 && lines + node.children.length > limit) continue;
        open.add(node.id);
        lines += node.children.length;
        next.push(...node.children);
      }
      level = next;
    }
    return open;
  }

  private nodes(from: number, end: number, depth: number): Node[] {
    const nodes: Node[] = [];
    for (let row = from; row < end; row = this.endOf(row)) {
      const last = this.endOf(row);
      const children = this.nodes(row + 1, last, depth + 1);
      const label = this.columns.name[row] ?? "";
      nodes.push({
        id: String(row),
        kind: "module",
        first: row,
        end: last,
        depth,
        label,
        children,
      });
    }
    return depth === 0 ? nodes : this.folded(nodes);
  }

  /** Alike siblings in a row become one line, "blocks.[0-11]". */
  private folded(nodes: readonly Node[]): Node[] {
    const lines: Node[] = [];
    for (let k = 0; k < nodes.length; ) {
      const first = nodes[k] as Node;
      let next = k + 1;
      while (next < nodes.length && this.alike(first, nodes[next] as Node)) next += 1;
      const run = nodes.slice(k, next);
      lines.push(...(run.length >= MIN_RUN ? [runOf(run)] : run));
      k = next;
    }
    return lines;
  }

  private alike(a: Node, b: Node): boolean {
    const { type, params } = this.columns;
    return (
      type[a.first] === type[b.first] &&
      params[a.first] === params[b.first] &&
      a.end - a.first === b.end - b.first &&
      numbered(a.label) !== null &&
      numbered(a.label)?.stem === numbered(b.label)?.stem
    );
  }

  private flags(rows: readonly number[]): Uint8Array {
    const flags = new Uint8Array(this.size);
    for (const row of rows) flags[row] = 1;
    return flags;
  }

  private between(sums: Int32Array, from: number, end: number): number {
    return (sums[end] ?? 0) - (sums[from] ?? 0);
  }

  private marked(flags: Uint8Array, from: number, end: number): number[] {
    return range(from, end).filter((row) => flags[row] && this.canChoose(row));
  }
}

function box(any: boolean, all: boolean): BoxState {
  return all ? "checked" : any ? "mixed" : "unchecked";
}

function runOf(run: readonly Node[]): Node {
  const first = run[0] as Node;
  const last = run.at(-1) as Node;
  const { stem = "", number = "" } = numbered(first.label) ?? {};
  return {
    id: `run ${first.first}`,
    kind: "run",
    first: first.first,
    end: last.end,
    depth: first.depth,
    label: `${stem}[${number}\u2013${numbered(last.label)?.number ?? ""}]`,
    children: run.map((node) => deeper(node)),
  };
}

/** "blocks.11" is number 11 of "blocks."; names without a number have none. */
function numbered(label: string): { stem: string; number: string } | null {
  const [, stem, number] = /^(.*?)(\d+)$/.exec(label) ?? [];
  return stem !== undefined && number !== undefined ? { stem, number } : null;
}

function deeper(node: Node): Node {
  return { ...node, depth: node.depth + 1, children: node.children.map(deeper) };
}

function endsOf(depth: readonly number[]): Int32Array {
  const ends = new Int32Array(depth.length).fill(depth.length);
  const open: number[] = [];
  depth.forEach((level, row) => {
    while (open.length > 0 && (depth[open.at(-1) as number] as number) >= level) {
      ends[open.pop() as number] = row;
    }
    open.push(row);
  });
  return ends;
}

function prefixSums(flags: Uint8Array): Int32Array {
  const sums = new Int32Array(flags.length + 1);
  flags.forEach((flag, row) => {
    sums[row + 1] = (sums[row] as number) + flag;
  });
  return sums;
}

function range(from: number, end: number): number[] {
  return Array.from({ length: Math.max(0, end - from) }, (_, k) => from + k);
}
