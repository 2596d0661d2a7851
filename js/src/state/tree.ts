/**
 * A model's tree and which of its rows are chosen. Pure data, no DOM.
 *
 * A box stands for the choice that makes sense at its level: the blocks below it if there
 * are any, else the module itself if it is a block, else the leaves below it.
 */

import type { TreeColumns } from "../protocol.ts";

export type BoxState = "checked" | "mixed" | "unchecked" | "disabled";

/** A line of the tree: a module, or a run of like siblings folded into one line. */
export interface TreeNode {
  readonly id: string;
  readonly kind: "module" | "run";
  /** Row of the module, or of the first module in a run. */
  readonly first: number;
  /** One past the last row below. */
  readonly end: number;
  readonly depth: number;
  readonly label: string;
  readonly children: readonly TreeNode[];
}

export interface TreeLine {
  readonly node: TreeNode;
  readonly position: number;
  readonly siblings: number;
}

/** Two like siblings are read faster than a folded line. */
const MIN_RUN = 3;

export class Tree {
  readonly columns: TreeColumns;
  readonly size: number;
  readonly roots: readonly TreeNode[];
  readonly rowOf: ReadonlyMap<string, number>;
  private readonly ends: Int32Array;
  /** Rows that are blocks, or chosen by default. */
  private readonly blocks: Uint8Array;
  private readonly leaves: Uint8Array;
  /** Prefix sums of both: how many come before a row. */
  private readonly blocksBefore: Int32Array;
  private readonly leavesBefore: Int32Array;

  constructor(columns: TreeColumns) {
    this.columns = columns;
    this.size = columns.name.length;
    this.rowOf = new Map(columns.name.map((name, row) => [name, row]));
    this.ends = endsOf(columns.depth);
    const { auto = [], blocks = [], leaves = [] } = columns.presets;
    this.blocks = this.flags([...auto, ...blocks].filter((row) => this.canChoose(row)));
    this.leaves = this.flags(leaves.filter((row) => this.canChoose(row)));
    this.blocksBefore = prefixSums(this.blocks);
    this.leavesBefore = prefixSums(this.leaves);
    this.roots = this.nodes(0, this.size, 0);
  }

  canChoose(row: number): boolean {
    return this.columns.reason[row] === null && row >= 0;
  }

  endOf(row: number): number {
    return this.ends[row] ?? row + 1;
  }

  /** Rows that a click on the node's box toggles, before any filter. */
  targets(node: TreeNode): number[] {
    const self = node.kind === "module" ? node.first : -1;
    const from = self < 0 ? node.first : self + 1;
    if (this.between(this.blocksBefore, from, node.end) > 0) {
      return this.marked(this.blocks, from, node.end);
    }
    if (self >= 0 && this.blocks[self]) return [self];
    if (this.between(this.leavesBefore, from, node.end) > 0) {
      return this.marked(this.leaves, from, node.end);
    }
    return self >= 0 && this.canChoose(self) ? [self] : [];
  }

  /** Chosen rows after a click on the node's box; rows hidden by a filter stay as they are. */
  toggled(chosen: Uint8Array, node: TreeNode, filter: Uint8Array | null): Uint8Array {
    const below = range(node.first, node.end).filter((row) => this.canChoose(row));
    const shown = filter ? below.filter((row) => filter[row]) : this.targets(node);
    const all = shown.length > 0 && shown.every((row) => chosen[row]);
    const next = Uint8Array.from(chosen);
    if (!all) for (const row of shown) next[row] = 1;
    else for (const row of filter ? shown : below) next[row] = 0;
    return next;
  }

  /** Layers to choose from that match the filter, folded or not. */
  choosable(filter: Uint8Array | null): number[] {
    return range(0, this.size).filter(
      (row) => this.canChoose(row) && (!filter || filter[row]),
    );
  }

  /** The inverse choice; rows hidden by a filter stay as they are. */
  inverted(chosen: Uint8Array, filter: Uint8Array | null): Uint8Array {
    const next = Uint8Array.from(chosen);
    for (const row of this.choosable(filter)) next[row] = chosen[row] ? 0 : 1;
    return next;
  }

  boxes(chosen: Uint8Array): (node: TreeNode) => BoxState {
    const total = prefixSums(chosen);
    const chosenBlocks = prefixSums(
      chosen.map((on, row) => on & (this.blocks[row] ?? 0)),
    );
    const chosenLeaves = prefixSums(
      chosen.map((on, row) => on & (this.leaves[row] ?? 0)),
    );
    return (node) => {
      const self = node.kind === "module" ? node.first : -1;
      const from = self < 0 ? node.first : self + 1;
      const any = this.between(total, node.first, node.end) > 0;
      const blocks = this.between(this.blocksBefore, from, node.end);
      if (blocks > 0)
        return box(any, this.between(chosenBlocks, from, node.end) === blocks);
      if (self >= 0 && this.blocks[self]) return box(any, chosen[self] === 1);
      const leaves = this.between(this.leavesBefore, from, node.end);
      if (leaves > 0)
        return box(any, this.between(chosenLeaves, from, node.end) === leaves);
      if (self < 0 || !this.canChoose(self)) return "disabled";
      return box(any, chosen[self] === 1);
    };
  }

  /** Chosen names in execution order, as they go to the kernel. */
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

  /** Classes of the rows that can be chosen, most frequent first. */
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

  /** Lines to draw: open branches; with a filter, matches and their ancestors. */
  lines(isOpen: (node: TreeNode) => boolean, filter: Uint8Array | null): TreeLine[] {
    const hits = filter ? prefixSums(filter) : null;
    const shown: TreeLine[] = [];
    const walk = (nodes: readonly TreeNode[]) => {
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

  /** Ids of the nodes to open so that chosen rows are visible, runs left folded. */
  opened(chosen: Uint8Array, limit: number): Set<string> {
    const sums = prefixSums(chosen);
    const open = new Set<string>();
    let level = [...this.roots];
    let lines = level.length;
    while (level.length > 0) {
      const next: TreeNode[] = [];
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

  private nodes(from: number, end: number, depth: number): TreeNode[] {
    const nodes: TreeNode[] = [];
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

  /** Successive like siblings become one line, "blocks.[0-11]". */
  private folded(nodes: readonly TreeNode[]): TreeNode[] {
    const lines: TreeNode[] = [];
    for (let k = 0; k < nodes.length; ) {
      const first = nodes[k] as TreeNode;
      let next = k + 1;
      while (next < nodes.length && this.areAlike(first, nodes[next] as TreeNode))
        next += 1;
      const run = nodes.slice(k, next);
      lines.push(...(run.length >= MIN_RUN ? [runOf(run)] : run));
      k = next;
    }
    return lines;
  }

  private areAlike(a: TreeNode, b: TreeNode): boolean {
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

function runOf(run: readonly TreeNode[]): TreeNode {
  const first = run[0] as TreeNode;
  const last = run.at(-1) as TreeNode;
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

/** "blocks.11" is number 11 of "blocks."; null for names without a number. */
function numbered(label: string): { stem: string; number: string } | null {
  const [, stem, number] = /^(.*?)(\d+)$/.exec(label) ?? [];
  return stem !== undefined && number !== undefined ? { stem, number } : null;
}

function deeper(node: TreeNode): TreeNode {
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
