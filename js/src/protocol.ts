/**
 * Everything that crosses the wire: types, decoders and messages.
 *
 * The only file that knows the names Python uses. Traits flow from the kernel to the page
 * only; the page answers with custom messages. The files in `tests/wire` are examples
 * that Python is tested with, too.
 *
 * Facts cross as fields, so that the page never searches sentences: `_axes.notes` is a
 * list of `{text, grave}`, `_trees.model1` and `_trees.model2` have a column `code` beside
 * `reason`, and `_meta.is_difference` is a boolean.
 */

export const PROTOCOL = 3;

/** What hooks get from the front end: the part of a widget model that is used here. */
export interface Model {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  on(event: string, handler: (...args: never[]) => void): void;
  off(event: string, handler: (...args: never[]) => void): void;
  send(content: unknown): void;
  widget_manager?: { get_model(id: string): Promise<WholeModel> };
}

/** A model as the front end's manager has it; hooks get less. */
export interface WholeModel {
  get(name: string): unknown;
  readonly comm_live?: boolean;
}

/** Which of the two models: rows of the matrix are side 0, columns side 1. */
export type Side = 0 | 1;
/** One for each model. */
export type PerSide<T> = readonly [T, T];

export const SIDES: PerSide<Side> = [0, 1];

export function perSide<T>(of: (side: Side) => T): PerSide<T> {
  return [of(0), of(1)];
}

export type Status = "idle" | "running" | "paused" | "stopped" | "done" | "error";
export type CommandName = "run" | "pause" | "resume" | "stop" | "restart";
export type Tone = "light" | "dark";
export type ColorRange = "fit" | readonly [number, number];
export type Focus = PerSide<string> | null;

export interface Meta {
  readonly names: PerSide<string>;
  readonly bokeh: string;
  readonly loader: string;
  readonly self: boolean;
  /** False for a saved result: there are no models to run. */
  readonly computes: boolean;
  /** Whether values are those of one result minus those of another. */
  readonly isDifference: boolean;
  /** Whether the loader can be iterated only once, so that nothing follows a run. */
  readonly isReadOnce: boolean;
}

/** Why a row of a tree cannot be chosen; its text is for people, the code for the page. */
export type ReasonCode = (typeof REASON_CODES)[number];

const REASON_CODES = [
  "model", // The model itself.
  "not_called", // The probe did not call the module.
  "called_repeatedly", // Each call has a row of its own.
  "alias", // The same module as an earlier row.
  "no_tensor", // No output, or none with a strided, real, floating-point tensor.
  "no_batch_axis", // No axis, or not always the same one, grows with the batch.
  "not_in_result", // A row of a saved result that was not compared.
] as const;

/** What is known of a row of a tree besides its columns. */
export interface Facts {
  /** Parameters of the module itself, not of its children. */
  readonly own: number;
  /** How many of all its parameters training would change. */
  readonly trainable: number;
  /** Types and devices of the parameters, "float32 on cpu". */
  readonly weights: string;
  /** Type and device of what it returns; empty before the probe. */
  readonly output: string;
  /** Bytes of what it returns for one example; 0 if unknown. */
  readonly bytes: number;
  /** Calls in one forward pass; null before the probe. */
  readonly calls: number | null;
}

export interface TreeColumns {
  readonly name: readonly string[];
  readonly type: readonly string[];
  readonly depth: readonly number[];
  readonly params: readonly number[];
  readonly shape: readonly (readonly (number | null)[] | null)[];
  /** Why a row cannot be chosen, in words; null if it can. */
  readonly reason: readonly (string | null)[];
  /** The same as a code. */
  readonly code: readonly (ReasonCode | null)[];
  readonly order: readonly (number | null)[];
  readonly facts: readonly Facts[];
  readonly presets: Readonly<Record<string, readonly number[]>>;
}

/** A sentence that a reader of the map should know. */
export interface Note {
  readonly text: string;
  /** Whether it puts the whole map in doubt. */
  readonly grave: boolean;
}

export interface Axes {
  readonly epoch: number;
  readonly layers: PerSide<readonly string[]>;
  readonly undefinedLayers: PerSide<Readonly<Record<string, string>>>;
  readonly notes: readonly Note[];
}

export interface Frame {
  readonly seq: number;
  readonly epoch: number;
  readonly batch: number;
  readonly total: number | null;
  readonly examples: number;
  readonly skipped: number;
  readonly seconds: number;
  readonly rate: number;
  readonly maxStderr: number | null;
  /** Bytes of GPU memory in use and in total; null on a CPU. */
  readonly gpu: readonly [number, number] | null;
  readonly rows: number;
  readonly cols: number;
  readonly final: boolean;
  /** Whether added layers have seen fewer batches than the others. */
  readonly catchingUp: boolean;
  /** Step between values that crossed as codes, in a large frame; else 0. */
  readonly step: number;
  readonly matrix: Float32Array;
  readonly stderr: Float32Array;
}

export interface HistoryPart {
  readonly epoch: number;
  readonly rows: number;
  readonly cols: number;
  /** Whether what the page knew of this run before must be dropped. */
  readonly isReset: boolean;
  readonly batches: readonly number[];
  readonly matrices: readonly Float32Array[];
  readonly stderrs: readonly Float32Array[];
}

export interface FigureJson {
  /** JSON for BokehJS, compressed by gzip. */
  readonly doc: Uint8Array<ArrayBuffer>;
  readonly roots: Readonly<Record<string, string>>;
  readonly version: string;
  readonly palettes: Palettes;
}

/** Colors from low to high, by the name of the palette. */
export type Palettes = Readonly<Record<string, readonly string[]>>;

export interface Message {
  readonly kind: "error" | "note" | "";
  readonly text: string;
}

/** Events of a model, by what has changed. */
export const CHANGED = {
  trees: "change:_trees",
  axes: "change:_axes",
  snapshot: "change:_snapshot",
  message: "change:_message",
  estimate: "change:_estimate",
  queued: "change:_queued",
  tolerance: "change:stop_when_stable",
  status: "change:status",
  layers1: "change:layers1",
  layers2: "change:layers2",
  focus: "change:focus",
  metric: "change:metric",
  palette: "change:palette",
  colorRange: "change:color_range",
  theme: "change:theme",
} as const;

/** Large traits that a page no longer needs once the model is closed. */
export const LARGE_TRAITS = [
  "_css",
  "_figure",
  "_trees",
  "_axes",
  "_snapshot",
  "_matrix",
  "_stderr",
  "_history",
] as const;

export const CUSTOM_MESSAGE = "msg:custom";
/** Sent by the front end when a kernel restarts, is found again, or closes the comm. */
export const CONNECTION = ["comm_live_update", "comm:close"];

type Bytes = ArrayBuffer | ArrayBufferView;
type Wire = Record<string, unknown>;

/** Bytes in a new buffer: the front end's may be shared and misaligned. */
export function copyOf(bytes: Bytes): Uint8Array<ArrayBuffer> {
  const view = ArrayBuffer.isView(bytes)
    ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    : new Uint8Array(bytes);
  return Uint8Array.from(view);
}

export function floatsOf(bytes: Bytes): Float32Array {
  return new Float32Array(copyOf(bytes).buffer);
}

export function isBytes(value: unknown): value is Bytes {
  return value instanceof ArrayBuffer || ArrayBuffer.isView(value);
}

export function protocolOf(model: Model): number {
  return (model.get("_protocol") as number | undefined) ?? PROTOCOL;
}

export function keyOf(model: Model): string {
  return (model.get("_key") as string | undefined) ?? "";
}

export function metaOf(model: Model): Meta {
  const meta = (model.get("_meta") ?? {}) as Wire;
  return {
    names: [String(meta.name1 ?? "Model 1"), String(meta.name2 ?? "Model 2")],
    bokeh: String(meta.bokeh ?? ""),
    loader: String(meta.loader ?? ""),
    self: meta.self === true,
    computes: meta.computes !== false,
    isDifference: meta.is_difference === true,
    isReadOnce: meta.read_once === true,
  };
}

export function treesOf(model: Model): PerSide<TreeColumns> {
  const trees = (model.get("_trees") ?? {}) as { model1?: Wire; model2?: Wire };
  return [columnsOf(trees.model1), columnsOf(trees.model2)];
}

function columnsOf(wire: Wire | undefined): TreeColumns {
  const columns = (wire ?? {}) as Partial<Omit<TreeColumns, "facts">>;
  const name = columns.name ?? [];
  const filled = <T>(values: readonly T[] | undefined, missing: T) =>
    values ?? name.map(() => missing);
  return {
    name,
    type: typesOf(columns),
    depth: filled(columns.depth, 0),
    params: filled(columns.params, 0),
    shape: filled(columns.shape, null),
    reason: filled(columns.reason, null),
    code: filled(columns.code, null).map(reasonCode),
    order: filled(columns.order, null),
    facts: factsByRow((wire?.facts ?? {}) as Record<string, unknown[]>, name),
    presets: columns.presets ?? {},
  };
}

/** Facts cross as a table without duplicates; each row has an index into it. */
function factsByRow(
  wire: Record<string, unknown[]>,
  rows: readonly unknown[],
): Facts[] {
  const at = (column: string, k: number) => wire[column]?.[k];
  const facts = (k: number): Facts => ({
    own: Number(at("own", k) ?? 0),
    trainable: Number(at("trainable", k) ?? 0),
    weights: String(at("weights", k) ?? ""),
    output: String(at("output", k) ?? ""),
    bytes: Number(at("nbytes", k) ?? 0),
    calls: numberOrNull(at("calls", k)),
  });
  const table = (wire.own ?? []).map((_, k) => facts(k));
  const unknown = facts(-1);
  return rows.map((_, row) => table[Number(wire.of_row?.[row] ?? -1)] ?? unknown);
}

/** One of several calls of a module, "act#1", has the module's class. */
function typesOf({
  name = [],
  type = [],
}: Partial<Pick<TreeColumns, "name" | "type">>): string[] {
  const classes = new Map(name.map((own, row) => [own, type[row] ?? ""]));
  return name.map((own) => {
    const module = own.replace(/#\d+$/, "");
    return classes.get(module) ?? classes.get(own) ?? "";
  });
}

export function axesOf(model: Model): Axes | null {
  const wire = model.get("_axes") as Wire | null | undefined;
  if (!wire || !Array.isArray(wire.layers1) || !Array.isArray(wire.layers2))
    return null;
  return {
    epoch: Number(wire.epoch ?? 0),
    layers: [wire.layers1, wire.layers2],
    undefinedLayers: [
      (wire.undefined1 ?? {}) as Record<string, string>,
      (wire.undefined2 ?? {}) as Record<string, string>,
    ],
    notes: ((wire.notes ?? []) as Wire[]).map(noteFrom),
  };
}

function noteFrom(wire: Wire): Note {
  return { text: String(wire.text ?? ""), grave: wire.grave === true };
}

/** A code that this page knows, or null. */
function reasonCode(code: unknown): ReasonCode | null {
  return REASON_CODES.find((known) => known === code) ?? null;
}

export function layersOf(model: Model, side: Side): readonly string[] {
  return (model.get(`layers${side + 1}`) ?? []) as string[];
}

export function focusOf(model: Model): Focus {
  const focus = model.get("focus");
  return Array.isArray(focus) && focus.length === 2
    ? [String(focus[0]), String(focus[1])]
    : null;
}

export function statusOf(model: Model): Status {
  return (model.get("status") as Status | undefined) ?? "idle";
}

export function metricOf(model: Model): string {
  return String(model.get("metric") ?? "cka");
}

export function paletteOf(model: Model): string {
  return String(model.get("palette") ?? "magma");
}

export function colorRangeOf(model: Model): ColorRange {
  const range = model.get("color_range");
  if (range === "fit") return "fit";
  return Array.isArray(range) && range.length === 2
    ? [Number(range[0]), Number(range[1])]
    : [0, 1];
}

/** Light or dark, if one was asked for; null follows the surrounding page. */
export function toneOf(model: Model): Tone | null {
  const theme = model.get("theme");
  return theme === "light" || theme === "dark" ? theme : null;
}

export function messageOf(model: Model): Message {
  const wire = (model.get("_message") ?? {}) as Wire;
  const kind = wire.kind === "error" || wire.kind === "note" ? wire.kind : "";
  return { kind, text: String(wire.text ?? "") };
}

/** What the run will take, in the kernel's words; empty before the probe. */
export function estimateOf(model: Model): string {
  return String(model.get("_estimate") ?? "");
}

/** Whether layers are chosen that the current run does not compute. */
export function queuedOf(model: Model): boolean {
  return model.get("_queued") === true;
}

/** The largest standard error at which a run ends, or null. */
export function toleranceOf(model: Model): number | null {
  return numberOrNull(model.get("stop_when_stable"));
}

/** The Python call before, between and after its two lists of layers. */
export function callOf(model: Model): readonly string[] {
  return (model.get("_code") ?? []) as string[];
}

export function figureOf(model: Model): FigureJson | null {
  const figure = model.get("_figure") as Wire | null | undefined;
  if (!figure?.doc) return null;
  return {
    doc: Uint8Array.from(atob(String(figure.doc)), (letter) => letter.charCodeAt(0)),
    roots: (figure.roots ?? {}) as Record<string, string>,
    version: String(figure.version),
    palettes: unpacked((figure.palettes ?? {}) as Record<string, string>),
  };
}

/** A palette crosses as a string of hexadecimal digits, six per color. */
function unpacked(packed: Readonly<Record<string, string>>): Palettes {
  return Object.fromEntries(
    Object.entries(packed).map(([name, digits]) => [
      name,
      (digits.match(/.{6}/g) ?? []).map((color) => `#${color}`),
    ]),
  );
}

/** The id of the shared model that carries BokehJS, without the prefix of references. */
export function runtimeIdOf(model: Model): string | null {
  const reference = model.get("_runtime");
  if (typeof reference !== "string" || reference === "") return null;
  return reference.replace(/^IPY_MODEL_/, "").replace(/^anywidget:/, "");
}

/** The shared model from the front end's manager; undefined if there is no manager. */
export async function runtimeOf(model: Model): Promise<WholeModel | undefined> {
  const id = runtimeIdOf(model);
  return id ? model.widget_manager?.get_model(id) : undefined;
}

/** The page's code, from the shared model. */
export async function pageCodeOf(model: Model): Promise<string | null> {
  const code = (await runtimeOf(model))?.get("code");
  return typeof code === "string" && code !== "" ? code : null;
}

/** Whether the page has a kernel. Hooks cannot ask their own model, only the shared one. */
export async function isLive(model: Model): Promise<boolean> {
  try {
    return (await runtimeOf(model))?.comm_live !== false;
  } catch {
    return false;
  }
}

/** Whether there has never been a kernel: the page shows what was saved. */
export async function isSaved(model: Model): Promise<boolean> {
  try {
    return (await runtimeOf(model))?.comm_live === false;
  } catch {
    return false;
  }
}

/** The gzipped BokehJS in the shared model, if it has that version. */
export function gzipOf(
  runtime: { get(name: string): unknown },
  version: string,
): Uint8Array<ArrayBuffer> | null {
  const gz = runtime.get("gz");
  if (runtime.get("version") !== version || !isBytes(gz)) return null;
  return gz.byteLength > 0 ? copyOf(gz) : null;
}

/** The last frame of a paused or finished run, from traits alone. */
export function snapshotOf(
  model: Model,
): { frame: Frame; history: HistoryPart } | null {
  const wire = model.get("_snapshot") as { header?: Wire; history?: Wire } | null;
  const matrix = model.get("_matrix");
  const stderr = model.get("_stderr");
  if (!wire?.header || !isBytes(matrix) || !isBytes(stderr)) return null;
  const frame = frameFrom(wire.header, [matrix, stderr]);
  const history = model.get("_history");
  const facts = isBytes(history) ? (wire.history ?? {}) : {};
  return { frame, history: historyFrom({ ...frame, isReset: false }, facts, history) };
}

export type Received =
  | { kind: "frame"; frame: Frame }
  | { kind: "history"; history: HistoryPart }
  | { kind: "bokehjs"; version: string; gz: Uint8Array<ArrayBuffer> }
  | { kind: "refused" }
  | { kind: "unknown" };

/** A custom message from the kernel; throws an error to show if it is malformed. */
export function decode(content: unknown, buffers: readonly Bytes[]): Received {
  const wire = (content ?? {}) as Wire;
  switch (wire.kind) {
    case "frame":
      return { kind: "frame", frame: frameFrom(wire, buffers) };
    case "history":
      return { kind: "history", history: historyMessage(wire, buffers[0]) };
    case "bokehjs": {
      const gz = buffers[0];
      if (!gz) throw new Error("Expected BokehJS in one buffer, got none.");
      return { kind: "bokehjs", version: String(wire.version), gz: copyOf(gz) };
    }
    case "refused":
      return { kind: "refused" };
    default:
      return { kind: "unknown" };
  }
}

function historyMessage(wire: Wire, bytes: unknown): HistoryPart {
  const shape = {
    epoch: Number(wire.epoch),
    rows: Number(wire.rows),
    cols: Number(wire.cols),
    isReset: wire.anew === true,
  };
  return historyFrom(shape, wire, bytes);
}

function frameFrom(header: Wire, buffers: readonly Bytes[]): Frame {
  const rows = Number(header.rows);
  const cols = Number(header.cols);
  const [matrix, stderr] = buffers;
  if (!matrix || !stderr) {
    throw new Error(`Expected a frame of 2 buffers, got ${buffers.length}.`);
  }
  return {
    seq: Number(header.seq),
    epoch: Number(header.epoch),
    ...{ rows, cols },
    final: header.final === true,
    catchingUp: header.catching_up === true,
    ...progressOf(header),
    ...contentOf(header.codes as Wire | undefined, matrix, stderr, rows * cols),
  };
}

type Progress = Pick<
  Frame,
  "batch" | "total" | "examples" | "skipped" | "seconds" | "rate" | "maxStderr" | "gpu"
>;

function progressOf(header: Wire): Progress {
  return {
    batch: Number(header.batch),
    total: numberOrNull(header.total),
    examples: Number(header.examples ?? 0),
    skipped: Number(header.skipped ?? 0),
    seconds: Number(header.seconds ?? 0),
    rate: Number(header.rate ?? 0),
    maxStderr: numberOrNull(header.max_stderr),
    gpu: (header.gpu as [number, number] | null | undefined) ?? null,
  };
}

/** Values and errors of a frame: float32, or a byte each if the header has a scale. */
function contentOf(
  codes: Wire | undefined,
  matrix: Bytes,
  stderr: Bytes,
  cells: number,
): Pick<Frame, "step" | "matrix" | "stderr"> {
  if (!codes)
    return { step: 0, matrix: sized(matrix, cells), stderr: sized(stderr, cells) };
  for (const bytes of [matrix, stderr]) expectBytes(bytes, cells, "codes");
  return {
    step: Number(codes.step),
    matrix: valuesOf(copyOf(matrix), codes),
    stderr: errorsOf(copyOf(stderr), Number(codes.most)),
  };
}

/** Snapshots as codes: first two bytes for each value, then one byte for each error. */
function historyFrom(
  shape: Pick<HistoryPart, "epoch" | "rows" | "cols" | "isReset">,
  facts: Wire,
  bytes: unknown,
): HistoryPart {
  const { rows, cols } = shape;
  const batches = (facts.batches ?? []) as number[];
  const most = (facts.most ?? []) as number[];
  const cells = rows * cols;
  const all = batches.length * cells;
  const data = copyOf(isBytes(bytes) ? bytes : new ArrayBuffer(0)).buffer;
  expectBytes(data, 3 * all, "codes");
  const values = new Uint16Array(data, 0, all);
  const errors = new Uint8Array(data, 2 * all);
  const part = <T>(codes: { slice(from: number, to: number): T }, k: number) =>
    codes.slice(k * cells, (k + 1) * cells);
  return {
    epoch: shape.epoch,
    isReset: shape.isReset,
    ...{ rows, cols, batches },
    matrices: batches.map((_, k) => valuesOf(part(values, k), facts)),
    stderrs: batches.map((_, k) => errorsOf(part(errors, k), most[k] ?? 0)),
  };
}

/** The values that codes stand for; the largest code is NaN. Python encodes them. */
function valuesOf(codes: Uint8Array | Uint16Array, scale: Wire): Float32Array {
  const undefinedCode = 256 ** codes.BYTES_PER_ELEMENT - 1;
  const [low, step] = [Number(scale.low ?? 0), Number(scale.step ?? 0)];
  return Float32Array.from(codes, (code) =>
    code === undefinedCode ? Number.NaN : low + code * step,
  );
}

/** Codes of standard errors are linear in their square roots, to resolve small ones. */
function errorsOf(codes: Uint8Array, most: number): Float32Array {
  return Float32Array.from(codes, (code) =>
    code === 255 ? Number.NaN : most * (code / 254) ** 2,
  );
}

function sized(bytes: Bytes, length: number): Float32Array {
  expectBytes(bytes, 4 * length, "float32");
  return floatsOf(bytes);
}

function expectBytes(bytes: Bytes, length: number, kind: string): void {
  if (bytes.byteLength === length) return;
  throw new Error(
    `Expected ${length} bytes of ${kind} from the kernel, got ${bytes.byteLength}.`,
  );
}

function numberOrNull(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** Messages from the page to the kernel. */
export const say = {
  ready: (page: string, views: number) => ({ kind: "ready", page, views }),
  ack: (page: string, frame: Frame, views: number) => ({
    kind: "ack",
    page,
    epoch: frame.epoch,
    seq: frame.seq,
    views,
  }),
  command: (name: CommandName) => ({ kind: "command", name }),
  layers: (layers: Partial<Record<Side, readonly string[]>>) => ({
    kind: "layers",
    ...(layers[0] && { layers1: layers[0] }),
    ...(layers[1] && { layers2: layers[1] }),
  }),
  focus: (focus: Focus) => ({ kind: "focus", focus }),
  palette: (palette: string) => ({ kind: "view", palette }),
  colorRange: (range: ColorRange) => ({ kind: "view", color_range: range }),
  tolerance: (value: number | null) => ({ kind: "tolerance", value }),
  needBokeh: (version: string) => ({ kind: "need_bokeh", version }),
  needCode: () => ({ kind: "need_code" }),
} as const;
