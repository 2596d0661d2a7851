/** A widget model without a kernel, and two networks for it to show. */

import type { MapSource, Options } from "../src/map/view.ts";
import { pendingReason } from "../src/map/words.ts";
import {
  type Facts,
  type Model,
  PROTOCOL,
  type ReasonCode,
  type TreeColumns,
  type WholeModel,
} from "../src/protocol.ts";
import type { Session } from "../src/state/session.ts";

/** The options of a new map. */
export const PLAIN: Options = {
  ...{ order: "execution", mask: "none", threshold: 0.5 },
  ...{ transpose: false, flip: false },
};

/** What a view of the session draws. */
export function sourceOf({ frames, choice, comparison, run }: Session): MapSource {
  return {
    shown: frames.shown,
    layers: choice.layers,
    isDifference: comparison.isDifference,
    pendingReason: pendingReason(run),
  };
}

type Handler = (...args: never[]) => void;

export class FakeModel implements Model {
  readonly sent: Record<string, unknown>[] = [];
  readonly state: Record<string, unknown>;
  widget_manager?: { get_model(id: string): Promise<WholeModel> };
  comm_live = true;
  private readonly handlers = new Map<string, Set<Handler>>();

  constructor(state: Record<string, unknown>) {
    this.state = state;
  }

  get(name: string): unknown {
    return this.state[name];
  }

  set(name: string, value: unknown): void {
    this.state[name] = value;
  }

  on(event: string, handler: Handler): void {
    const known = this.handlers.get(event) ?? new Set();
    this.handlers.set(event, known.add(handler));
  }

  off(event: string, handler: Handler): void {
    this.handlers.get(event)?.delete(handler);
  }

  send(content: unknown): void {
    this.sent.push(content as Record<string, unknown>);
  }

  /** What the kernel does: sets traits, all of them before the first event. */
  put(state: Record<string, unknown>): void {
    Object.assign(this.state, state);
    for (const name of Object.keys(state)) this.fire(`change:${name}`);
  }

  message(content: unknown, buffers: ArrayBufferView[] = []): void {
    this.fire("msg:custom", content, buffers);
  }

  /** What the front end does to each model when the kernel comes or goes. */
  connect(live: boolean): void {
    this.comm_live = live;
    this.fire("comm_live_update");
  }

  listeners(): number {
    return [...this.handlers.values()].reduce((sum, set) => sum + set.size, 0);
  }

  sentOf(kind: string): Record<string, unknown>[] {
    return this.sent.filter((message) => message.kind === kind);
  }

  private fire(event: string, ...args: unknown[]): void {
    for (const handler of this.handlers.get(event) ?? []) handler(...(args as never[]));
  }
}

interface Row {
  name: string;
  type: string;
  params?: number;
  shape?: (number | null)[];
  reason?: string;
  code?: ReasonCode;
  facts?: Partial<Facts>;
}

/** Columns as the kernel sends them; depth and order follow from the names. */
export function columnsFrom(
  rows: readonly Row[],
  presets: Record<string, string[]>,
): TreeColumns {
  const names = rows.map((row) => row.name);
  const parents = new Set(names.flatMap(parentsOf));
  const rowOf = new Map(names.map((name, row) => [name, row]));
  const at = (list: string[]) => list.map((name) => rowOf.get(name) ?? -1);
  return {
    name: names,
    type: rows.map((row) => row.type),
    depth: names.map((name) => (name === "" ? 0 : name.split(/[.#]/).length)),
    params: rows.map((row) => row.params ?? 0),
    shape: rows.map((row) => row.shape ?? null),
    reason: rows.map((row) => row.reason ?? null),
    code: rows.map((row) => row.code ?? null),
    order: rows.map((row, k) => (row.reason ? null : k)),
    facts: rows.map((row) => factsOf(row, !parents.has(row.name))),
    presets: Object.fromEntries(
      Object.entries(presets).map(([name, list]) => [name, at(list)]),
    ),
  };
}

/** The names of all modules above one: "a.b.c" has "", "a" and "a.b". */
function parentsOf(name: string): string[] {
  const parts = name.split(".");
  return name === "" ? [] : parts.map((_, k) => parts.slice(0, k).join("."));
}

/** Float32 throughout; all parameters of a leaf are its own. */
function factsOf({ params = 0, shape, reason, facts }: Row, isLeaf: boolean): Facts {
  const numbers = (shape ?? []).reduce<number>((n, size) => n * (size ?? 1), 1);
  return {
    own: isLeaf ? params : 0,
    trainable: params,
    weights: params > 0 ? "float32 on cpu" : "",
    output: shape ? "float32 on cpu" : "",
    bytes: shape ? 4 * numbers : 0,
    calls: reason ? 0 : 1,
    ...facts,
  };
}

/** The tree as it crosses to the page. */
export function wireTree({ facts, ...columns }: TreeColumns): Record<string, unknown> {
  const column = (key: keyof Facts) => facts.map((row) => row[key]);
  return {
    ...columns,
    facts: {
      of_row: facts.map((_, row) => row),
      own: column("own"),
      trainable: column("trainable"),
      weights: column("weights"),
      output: column("output"),
      nbytes: column("bytes"),
      calls: column("calls"),
    },
  };
}

export function resnetColumns(blocksPerStage = 2): TreeColumns {
  const rows: Row[] = [
    { name: "", type: "ResNet", params: 11689512, shape: [null, 1000] },
    { name: "conv1", type: "Conv2d", params: 9408, shape: [null, 64, 112, 112] },
    { name: "bn1", type: "BatchNorm2d", params: 128, shape: [null, 64, 112, 112] },
    { name: "relu", type: "ReLU", shape: [null, 64, 112, 112] },
    { name: "maxpool", type: "MaxPool2d", shape: [null, 64, 56, 56] },
  ];
  const blocks: string[] = [];
  for (let stage = 1; stage <= 4; stage++) {
    const width = 32 * 2 ** stage;
    const shape = [null, width, 112 / 2 ** stage, 112 / 2 ** stage];
    const params = 18 * width * width;
    rows.push({ name: `layer${stage}`, type: "Sequential", params: 2 * params, shape });
    for (let k = 0; k < blocksPerStage; k++) {
      const block = `layer${stage}.${k}`;
      blocks.push(block);
      rows.push({ name: block, type: "BasicBlock", params, shape });
      for (const part of ["conv1", "bn1", "relu", "conv2", "bn2"]) {
        const type = part.startsWith("conv")
          ? "Conv2d"
          : part === "relu"
            ? "ReLU"
            : "BatchNorm2d";
        rows.push({
          name: `${block}.${part}`,
          type,
          params: type === "Conv2d" ? params / 2 : type === "ReLU" ? 0 : 2 * width,
          shape,
        });
      }
    }
  }
  rows.push(
    { name: "avgpool", type: "AdaptiveAvgPool2d", shape: [null, 512, 1, 1] },
    { name: "dropout", type: "Dropout", reason: "never called", code: "not_called" },
    { name: "fc", type: "Linear", params: 513000, shape: [null, 1000] },
  );
  const parents = new Set(
    rows.map(({ name }) => name.split(".").slice(0, -1).join(".")),
  );
  const choosable = rows.filter((row) => !row.reason).map((row) => row.name);
  return columnsFrom(rows, {
    auto: ["conv1", ...blocks, "avgpool", "fc"],
    blocks,
    leaves: choosable.filter((name) => name !== "" && !parents.has(name)),
    all: choosable,
  });
}

export function vitColumns(depth = 12): TreeColumns {
  const shape = [null, 197, 768];
  const rows: Row[] = [
    { name: "", type: "VisionTransformer", params: 86567656, shape: [null, 1000] },
    {
      name: "patch_embed",
      type: "PatchEmbed",
      params: 590592,
      shape: [null, 196, 768],
    },
    {
      name: "patch_embed.proj",
      type: "Conv2d",
      params: 590592,
      shape: [null, 768, 14, 14],
    },
    { name: "pos_drop", type: "Dropout", shape },
    { name: "blocks", type: "Sequential", params: 7087872 * depth, shape },
  ];
  const blocks = Array.from({ length: depth }, (_, k) => `blocks.${k}`);
  for (const block of blocks) {
    rows.push(
      { name: block, type: "Block", params: 7087872, shape },
      { name: `${block}.norm1`, type: "LayerNorm", params: 1536, shape },
      { name: `${block}.attn`, type: "Attention", params: 2362368, shape },
      {
        name: `${block}.attn.qkv`,
        type: "Linear",
        params: 1771776,
        shape: [null, 197, 2304],
      },
      { name: `${block}.attn.proj`, type: "Linear", params: 590592, shape },
      { name: `${block}.mlp`, type: "Mlp", params: 4722432, shape },
      {
        name: `${block}.mlp.fc1`,
        type: "Linear",
        params: 2362368,
        shape: [null, 197, 3072],
      },
      { name: `${block}.mlp.act`, type: "GELU", shape: [null, 197, 3072] },
      { name: `${block}.mlp.fc2`, type: "Linear", params: 2360064, shape },
    );
  }
  rows.push(
    { name: "norm", type: "LayerNorm", params: 1536, shape },
    { name: "head", type: "Linear", params: 769000, shape: [null, 1000] },
  );
  const names = rows.map((row) => row.name);
  const isLeaf = (name: string) =>
    name !== "" && !names.some((other) => other.startsWith(`${name}.`));
  return columnsFrom(rows, {
    auto: ["patch_embed", ...blocks, "norm", "head"],
    blocks,
    leaves: names.filter(isLeaf),
    all: names,
  });
}

export function presetNames(columns: TreeColumns, preset = "auto"): string[] {
  return (columns.presets[preset] ?? []).map((row) => columns.name[row] as string);
}

/** A smooth map as real ones are, with noise that falls with the number of batches. */
export function matrices(rows: number, cols: number, batch: number, seed = 1) {
  const random = generator(seed + batch);
  const matrix = new Float32Array(rows * cols);
  const stderr = new Float32Array(rows * cols);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      const [u, v] = [i / Math.max(1, rows - 1), j / Math.max(1, cols - 1)];
      const near = Math.exp(-(((u - v) * 3.1) ** 2));
      const level = 0.12 + 0.84 * near * (0.78 + 0.22 * Math.cos(2.4 * (u + v) - 0.6));
      const noise = (0.1 * (random() - 0.5)) / Math.sqrt(batch);
      matrix[i * cols + j] = Math.min(0.999, level + noise);
      stderr[i * cols + j] = (0.03 * (1.2 - near) + 0.004) / Math.sqrt(batch);
    }
  }
  return { matrix, stderr };
}

function generator(seed: number): () => number {
  let state = seed * 2654435761;
  return () => {
    state = (Math.imul(state ^ (state >>> 15), 2246822519) + 0x9e3779b9) | 0;
    return ((state ^ (state >>> 13)) >>> 0) / 2 ** 32;
  };
}

interface StateOptions {
  readonly trees?: readonly [TreeColumns, TreeColumns];
  readonly figure?: unknown;
  readonly status?: string;
}

let serial = 0;

export function stateOf(options: StateOptions = {}): Record<string, unknown> {
  const [first, second] = options.trees ?? [resnetColumns(), vitColumns()];
  const [layers1, layers2] = [presetNames(first), presetNames(second)];
  serial += 1;
  return {
    _protocol: PROTOCOL,
    _key: `explorer-${serial}`,
    _runtime: "IPY_MODEL_runtime",
    _meta: {
      name1: "ResNet-18",
      name2: "ViT-B/16",
      bokeh: "3.9.2",
      loader: "5 000 examples, batches of 64",
      self: false,
      computes: true,
      is_difference: false,
    },
    _trees: { model1: wireTree(first), model2: wireTree(second) },
    _axes: { epoch: 1, layers1, layers2, undefined1: {}, undefined2: {}, notes: [] },
    _figure: options.figure ?? null,
    _snapshot: null,
    _matrix: null,
    _stderr: null,
    _history: null,
    _message: { kind: "", text: "" },
    _estimate: "",
    _code: [
      "CKA(\n    model1,\n    model2,\n    model1_layers=",
      ",\n    model2_layers=",
      ",\n).compare(loader)",
    ],
    stop_when_stable: null,
    layers1,
    layers2,
    focus: null,
    status: options.status ?? "running",
    metric: "cka",
    palette: "magma",
    color_range: [0, 1],
  };
}

interface FrameOptions {
  readonly seq: number;
  readonly epoch?: number;
  readonly batch?: number;
  readonly total?: number | null;
  readonly final?: boolean;
  readonly rows: number;
  readonly cols: number;
  readonly edit?: (matrix: Float32Array, stderr: Float32Array) => void;
}

/** A frame as the kernel sends it: header and two buffers at odd offsets. */
export function wireFrame(options: FrameOptions): [unknown, DataView[]] {
  const { rows, cols, seq } = options;
  const batch = options.batch ?? seq;
  const { matrix, stderr } = matrices(rows, cols, batch);
  options.edit?.(matrix, stderr);
  const header = {
    kind: "frame",
    seq,
    epoch: options.epoch ?? 1,
    batch,
    total: options.total === undefined ? 157 : options.total,
    examples: 128 * batch,
    skipped: 0,
    seconds: 0.83 * batch,
    rate: 1210,
    max_stderr: stderr.reduce((most, error) => Math.max(most, error || 0), 0),
    rows,
    cols,
    final: options.final ?? false,
    catching_up: false,
  };
  return [header, [misaligned(matrix), misaligned(stderr)]];
}

/** A history as the kernel sends it: its header and its codes, the same in each cell. */
export function wireHistory(
  moments: readonly (readonly [batch: number, value: number, stderr: number])[],
  rows: number,
  cols: number,
): [Record<string, unknown>, DataView] {
  const cells = rows * cols;
  const step = 2 ** -15;
  const values = moments.flatMap(([, value]) => Array(cells).fill(value / step));
  const errors = moments.flatMap(() => Array(cells).fill(254));
  const bytes = new Uint8Array(3 * cells * moments.length);
  bytes.set(new Uint8Array(Uint16Array.from(values).buffer));
  bytes.set(errors, 2 * values.length);
  const facts = {
    batches: moments.map(([batch]) => batch),
    most: moments.map(([, , stderr]) => stderr),
    low: 0,
    step,
  };
  return [facts, new DataView(bytes.buffer)];
}

function misaligned(floats: Float32Array): DataView {
  const bytes = new Uint8Array(floats.byteLength + 3);
  bytes.set(new Uint8Array(floats.buffer), 3);
  return new DataView(bytes.buffer, 3);
}
