import { expect, test } from "vitest";
import axes from "../../../tests/wire/axes.json";
import frame from "../../../tests/wire/frame.json";
import inCodes from "../../../tests/wire/frame_in_codes.json";
import fromPage from "../../../tests/wire/from_page.json";
import history from "../../../tests/wire/history.json";
import snapshot from "../../../tests/wire/snapshot.json";
import trees from "../../../tests/wire/trees.json";
import {
  axesOf,
  decode,
  floatsOf,
  gzipOf,
  runtimeIdOf,
  say,
  snapshotOf,
  treesOf,
} from "../../src/protocol.ts";
import { FakeModel } from "../fake.ts";

function bytesOf(base64: string, offset = 0): DataView {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length + offset);
  for (let k = 0; k < text.length; k++) bytes[k + offset] = text.charCodeAt(k);
  return new DataView(bytes.buffer, offset);
}

function expectClose(
  read: Float32Array | undefined,
  wanted: readonly number[],
  digits: number,
): void {
  wanted.forEach((value, k) => {
    const own = read?.[k] ?? 0;
    if (Number.isNaN(value)) expect(own).toBeNaN();
    else expect(own).toBeCloseTo(value, digits);
  });
}

test("a frame that Python wrote is read with its NaN and its missing total", () => {
  const buffers = frame.buffers.map((text) => bytesOf(text));
  const received = decode(frame.message, buffers);
  if (received.kind !== "frame") throw new Error(received.kind);
  const { rows, cols, matrix, stderr, maxStderr, total } = received.frame;
  expect(matrix.length).toBe(rows * cols);
  expect(stderr.length).toBe(rows * cols);
  const wire = buffers[0] as DataView;
  const sent = Array.from(matrix, (_, k) => wire.getFloat32(4 * k, true));
  expect(Array.from(matrix)).toEqual(sent);
  expect(sent.some(Number.isNaN)).toBe(true);
  expect(maxStderr).toBe(frame.message.max_stderr);
  expect(total).toBe(frame.message.total);
  const unknown = decode({ ...frame.message, total: null }, buffers);
  expect(unknown.kind === "frame" && unknown.frame.total).toBeNull();
});

test("a large frame that Python wrote as codes is read to half a step", () => {
  const received = decode(
    inCodes.message,
    inCodes.buffers.map((text) => bytesOf(text, 1)),
  );
  if (received.kind !== "frame") throw new Error(received.kind);
  const { matrix, stderr, step } = received.frame;
  expect(step).toBe(inCodes.message.codes.step);
  const wanted = [1, 0.75, 0.125, 0.5, 0.875, -0.0625, NaN, NaN, NaN, 0.25];
  wanted.forEach((value, k) => {
    if (Number.isNaN(value)) expect(matrix[k]).toBeNaN();
    else expect(Math.abs((matrix[k] ?? 9) - value)).toBeLessThan(0.51 * step);
  });
  expectClose(stderr, [0, 2 ** -5, 2 ** -4, 2 ** -6, 2 ** -7, 2 ** -3, NaN], 3);
  expect(() => decode(inCodes.message, [bytesOf("AAAA"), bytesOf("AAAA")])).toThrow(
    "Expected 12 bytes of codes from the kernel, got 3.",
  );
});

test("buffers at any offset are copied, not aliased", () => {
  for (const offset of [0, 1, 2, 3, 4, 7]) {
    const wire = bytesOf(frame.buffers[0] as string, offset);
    const first = wire.getFloat32(0, true);
    const floats = floatsOf(wire);
    expect(floats[0]).toBe(first);
    wire.setFloat32(0, first + 9, true);
    expect(floats[0]).toBe(first);
  }
});

test("a frame of the wrong size is refused with an error", () => {
  const buffers = frame.buffers.map((text) => bytesOf(text));
  const { rows, cols } = frame.message;
  expect(() => decode({ ...frame.message, rows: rows + 1 }, buffers)).toThrow(
    `Expected ${4 * (rows + 1) * cols} bytes of float32 from the kernel, ` +
      `got ${4 * rows * cols}.`,
  );
  expect(() => decode(frame.message, [])).toThrow(
    "Expected a frame of 2 buffers, got 0.",
  );
});

test("the history that Python wrote has values and errors for each batch", () => {
  const received = decode(
    history.message,
    history.buffers.map((text) => bytesOf(text)),
  );
  if (received.kind !== "history") throw new Error(received.kind);
  const { batches, matrices, stderrs, rows, cols } = received.history;
  expect(batches).toEqual(history.message.batches);
  expect(matrices).toHaveLength(batches.length);
  const wanted = [1, 0.75, 0.125, 0.5, 0.875, -0.0625, NaN, NaN, NaN, 0.25];
  [0.5, 0.75].forEach((factor, k) => {
    expectClose(
      matrices[k],
      wanted.map((value) => factor * value),
      4,
    );
  });
  const errors = [0, 2 ** -5, 2 ** -4, 2 ** -6, 2 ** -7, 2 ** -3, NaN];
  for (const read of stderrs) {
    expect(read).toHaveLength(rows * cols);
    expectClose(read, errors, 3);
  }
});

test("a finished run is read from the traits alone", () => {
  const model = new FakeModel({
    _snapshot: snapshot.snapshot,
    _matrix: bytesOf(snapshot.matrix, 1),
    _stderr: bytesOf(snapshot.stderr),
    _history: bytesOf(snapshot.history),
  });
  const read = snapshotOf(model);
  expect(read?.frame.final).toBe(snapshot.snapshot.header.final);
  expect(read?.frame.matrix[0]).toBe(bytesOf(snapshot.matrix).getFloat32(0, true));
  expect(read?.history.batches).toEqual(snapshot.snapshot.history.batches);
  expect(
    snapshotOf(new FakeModel({ _snapshot: null, _matrix: bytesOf("") })),
  ).toBeNull();
});

test("trees and axes that Python wrote keep their columns", () => {
  const [first, second] = treesOf(new FakeModel({ _trees: trees }));
  expect(first.name).toEqual(trees.model1.name);
  expect(first.reason).toEqual(trees.model1.reason);
  expect(first.code).toEqual(trees.model1.code);
  const call = first.name.findIndex((name) => name.endsWith("#1"));
  const module = first.name.indexOf(first.name[call]?.replace("#1", "") ?? "");
  expect(trees.model1.type[call]).toBe("call");
  expect(first.type[call]).toBe(trees.model1.type[module]);
  expect(second.presets.auto).toEqual(trees.model2.presets.auto);
  const factsOf = (name: string) => first.facts[first.name.indexOf(name)];
  expect(factsOf("stem.conv")).toEqual({
    own: 108,
    trainable: 108,
    weights: "float32 on cpu",
    output: "float32 on cpu",
    bytes: 4 * 4 * 8 * 8,
    calls: 1,
  });
  expect(factsOf("stem")?.own).toBe(0);
  expect(factsOf("act")?.calls).toBe(2);
  expect(factsOf("unused")?.calls).toBe(0);
  const read = axesOf(new FakeModel({ _axes: axes }));
  expect(read?.layers).toEqual([axes.layers1, axes.layers2]);
  expect(read?.undefinedLayers[0]).toEqual(axes.undefined1);
  expect(read?.notes).toEqual(axes.notes);
  expect(axesOf(new FakeModel({ _axes: null }))).toBeNull();
});

test("every message from the page is one that Python reads", () => {
  const ack = fromPage.find((message) => message.kind === "ack");
  const frame = { epoch: ack?.epoch, seq: ack?.seq } as Parameters<typeof say.ack>[1];
  const layers1 = fromPage.find((message) => message.kind === "layers")?.layers1;
  const both = fromPage.find((message) => "layers2" in message);
  const said = [
    say.ready("page-1", 1),
    say.ack("page-1", frame, 1),
    ...(["run", "pause", "resume", "stop", "restart"] as const).map(say.command),
    say.layers({ 0: layers1 as string[] }),
    say.layers({ 0: both?.layers1 as string[], 1: both?.layers2 as string[] }),
    say.focus(null),
    say.palette("viridis"),
    say.colorRange("fit"),
    say.colorRange([0.25, 0.75]),
    say.tolerance(0.005),
    say.tolerance(null),
    say.needBokeh("3.9.2"),
  ];
  for (const message of said) expect(fromPage).toContainEqual(message);
});

test("BokehJS is taken from the shared model only in the version asked for", () => {
  const runtime = new FakeModel({ version: "3.9.2", gz: bytesOf("AAEC") });
  expect(gzipOf(runtime, "3.9.2")).toEqual(Uint8Array.of(0, 1, 2));
  expect(gzipOf(runtime, "3.4.0")).toBeNull();
  const empty = new FakeModel({ version: "3.9.2", gz: bytesOf("") });
  expect(gzipOf(empty, "3.9.2")).toBeNull();
  expect(runtimeIdOf(new FakeModel({ _runtime: "IPY_MODEL_ab" }))).toBe("ab");
  expect(runtimeIdOf(new FakeModel({}))).toBeNull();
});

test("a message of a later protocol is ignored", () => {
  expect(decode({ kind: "weather" }, [])).toEqual({ kind: "unknown" });
});

test("the tree of a saved result has no facts about its rows", () => {
  const [first] = treesOf(new FakeModel({ _trees: { model1: { name: ["", "a"] } } }));
  expect(first.facts.map(({ own, calls, weights }) => [own, calls, weights])).toEqual([
    [0, null, ""],
    [0, null, ""],
  ]);
});
