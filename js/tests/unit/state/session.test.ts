import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { PROTOCOL } from "../../../src/protocol.ts";
import { ECHO_MS } from "../../../src/state/changes.ts";
import { UNDO_STEPS } from "../../../src/state/choice.ts";
import { ANSWER_WITHIN_MS } from "../../../src/state/connection.ts";
import { PAINT_WITHIN_MS } from "../../../src/state/frames.ts";
import { MAX_PINS } from "../../../src/state/pins.ts";
import { Session } from "../../../src/state/session.ts";
import { FakeModel, stateOf, wireFrame, wireHistory } from "../../fake.ts";

let model: FakeModel;
let session: Session;
let changes: string[];

function begin(state: Record<string, unknown> = {}): void {
  model = new FakeModel({ ...stateOf(), ...state });
  session = new Session(model);
  changes = [];
}

const size = () => ({
  rows: session.choice.layers[0].length,
  cols: session.choice.layers[1].length,
});
const frame = (seq: number, more: { epoch?: number; final?: boolean } = {}) =>
  model.message(...wireFrame({ seq, rows: 11, cols: 15, ...more }));

beforeEach(() => {
  vi.useFakeTimers();
  begin();
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
});

test("the first view is announced at once, a session without views after a moment", () => {
  session.subscribe((change) => changes.push(change));
  expect(model.sentOf("ready")).toEqual([
    { kind: "ready", page: session.connection.page, views: 1 },
  ]);
  vi.advanceTimersByTime(1000);
  expect(model.sentOf("ready")).toHaveLength(1);
  session.close();
  begin();
  vi.advanceTimersByTime(1000);
  expect(model.sentOf("ready")).toEqual([
    { kind: "ready", page: session.connection.page, views: 0 },
  ]);
});

test("of frames that arrive together the newest is shown and acknowledged, once", () => {
  session.subscribe((change) => changes.push(change));
  frame(1);
  frame(3);
  frame(2);
  expect(session.frames.shown).toBeNull();
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  expect(session.frames.shown?.frame.seq).toBe(3);
  expect(changes).toEqual(["frame"]);
  expect(model.sentOf("ack").at(-1)).toEqual({
    kind: "ack",
    page: session.connection.page,
    epoch: 1,
    seq: 3,
    views: 1,
  });
});

test("a view that cannot draw keeps neither other views nor the kernel waiting", () => {
  const report = vi.fn();
  vi.stubGlobal("reportError", report);
  const error = new Error("no canvas");
  session.subscribe(() => {
    throw error;
  });
  session.subscribe((change) => changes.push(change));
  frame(1);
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  expect(changes).toEqual(["frame"]);
  expect(model.sentOf("ack")).toHaveLength(1);
  expect(report).toHaveBeenCalledWith(error);
  vi.unstubAllGlobals();
});

test("a hidden tab, which never paints, shows frames all the same", () => {
  vi.stubGlobal("requestAnimationFrame", () => 0);
  frame(1);
  vi.advanceTimersByTime(PAINT_WITHIN_MS - 1);
  expect(model.sentOf("ack")).toHaveLength(0);
  vi.advanceTimersByTime(1);
  expect(session.frames.shown?.frame.seq).toBe(1);
  expect(model.sentOf("ack")).toMatchObject([{ seq: 1, views: 0 }]);
  vi.unstubAllGlobals();
});

test("frames of an older run or with an older number are dropped", () => {
  model.put({ _axes: { ...(model.state._axes as object), epoch: 2 } });
  frame(1, { epoch: 2 });
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  frame(9, { epoch: 1 });
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  expect(session.frames.shown?.frame).toMatchObject({ epoch: 2, seq: 1 });
});

test("a frame that comes before its axes waits for them", () => {
  session.subscribe((change) => changes.push(change));
  frame(1, { epoch: 2 });
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  expect(session.frames.shown).toBeNull();
  expect(model.sentOf("ack")).toHaveLength(1);
  model.put({ _axes: { ...(model.state._axes as object), epoch: 2 } });
  expect(session.frames.shown?.frame.epoch).toBe(2);
});

test("a frame that does not fit its axes is reported", () => {
  model.message(...wireFrame({ seq: 1, rows: 2, cols: 2 }));
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  expect(session.messages.current.text).toContain(
    "Expected a frame of 11 x 15 layers, got 2 x 2",
  );
});

test("a message that cannot be read is reported and the next one is shown", () => {
  const [header] = wireFrame({ seq: 1, rows: 11, cols: 15 });
  model.message(header, []);
  expect(session.messages.current).toMatchObject({ kind: "error" });
  expect(session.messages.current.text).toContain(
    "Expected a frame of 2 buffers, got 0.",
  );
  frame(2);
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  expect(session.frames.shown?.frame.seq).toBe(2);
});

test("a saved notebook shows its snapshot with history and no kernel", () => {
  const { rows, cols } = size();
  const [header, buffers] = wireFrame({ seq: 8, batch: 40, final: true, rows, cols });
  const [history, codes] = wireHistory(
    [
      [10, 0.5, 0.125],
      [20, 0.625, 0.0625],
    ],
    rows,
    cols,
  );
  begin({
    status: "done",
    _snapshot: { header, history },
    _matrix: buffers[0],
    _stderr: buffers[1],
    _history: codes,
  });
  expect(session.frames.shown?.frame).toMatchObject({ batch: 40, final: true });
  const { batches, values, stderrs } = session.frames.history.cell(0);
  expect(batches).toEqual([10, 20, 40]);
  expect(values.slice(0, 2)).toEqual([0.5, 0.625]);
  expect(stderrs).toEqual([0.125, 0.0625, buffers[1]?.getFloat32(0, true)]);
});

test("a snapshot that arrives during a run replaces older frames only", () => {
  const { rows, cols } = size();
  frame(5);
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  const put = (seq: number) => {
    const [header, buffers] = wireFrame({ seq, rows, cols });
    model.put({
      _matrix: buffers[0],
      _stderr: buffers[1],
      _history: new DataView(new ArrayBuffer(0)),
      _snapshot: { header, history: { batches: [] } },
    });
  };
  put(4);
  expect(session.frames.shown?.frame.seq).toBe(5);
  put(6);
  expect(session.frames.shown?.frame.seq).toBe(6);
});

test("choices go out as one message and can be undone twenty steps back", () => {
  const start = session.choice.layers[0];
  for (let k = 0; k < UNDO_STEPS + 5; k++)
    session.choice.choose({ 0: start.slice(0, 1 + (k % 5)) });
  expect(model.sentOf("layers")).toHaveLength(UNDO_STEPS + 5);
  expect(model.sentOf("layers")[0]).toEqual({
    kind: "layers",
    layers1: start.slice(0, 1),
  });
  let steps = 0;
  while (session.choice.canUndo) {
    session.choice.undo();
    steps += 1;
  }
  expect(steps).toBe(UNDO_STEPS);
});

test("a choice that changes nothing is not sent", () => {
  session.choice.choose({ 0: [...session.choice.layers[0]] });
  expect(model.sentOf("layers")).toHaveLength(0);
  expect(session.choice.canUndo).toBe(false);
});

test("an echo of an earlier click does not undo a later one", () => {
  const [all] = session.choice.layers;
  session.choice.choose({ 0: all.slice(0, 3) });
  session.choice.choose({ 0: all.slice(0, 4) });
  model.put({ layers1: all.slice(0, 3) });
  expect(session.choice.layers[0]).toHaveLength(4);
  model.put({ layers1: all.slice(0, 4) });
  vi.advanceTimersByTime(ECHO_MS + 5);
  expect(session.choice.layers[0]).toHaveLength(4);
});

test("values that Python sets are taken, also when they overrule the page", () => {
  session.subscribe((change) => changes.push(change));
  model.put({ layers1: ["conv1"], focus: ["conv1", "norm"], palette: "viridis" });
  expect(session.choice.layers[0]).toEqual(["conv1"]);
  expect(session.focus.value).toEqual(["conv1", "norm"]);
  expect(session.palette.value).toBe("viridis");
  session.choice.choose({ 0: ["fc"] });
  model.put({ layers1: ["conv1", "fc"] });
  vi.advanceTimersByTime(ECHO_MS + 5);
  expect(session.choice.layers[0]).toEqual(["conv1", "fc"]);
});

test("what the kernel refuses is taken back, whatever it was", () => {
  const { choice, focus, palette, colorRange, tolerance } = session;
  const before = [
    ...[choice.layers, focus.value, palette.value, colorRange.value, tolerance.value],
  ];
  choice.choose({ 0: ["nowhere"] });
  focus.set(["nowhere", "fc"]);
  palette.set("none");
  colorRange.set([1, 0]);
  tolerance.set(-1);
  session.subscribe((change) => changes.push(change));
  model.message({ kind: "refused" });
  expect([
    ...[choice.layers, focus.value, palette.value, colorRange.value, tolerance.value],
  ]).toEqual(before);
  expect(choice.canUndo).toBe(false);
  expect(new Set(changes)).toEqual(new Set(["layers", "focus", "colors", "tolerance"]));
});

test("a refusal leaves earlier choices and their undo", () => {
  const [all] = session.choice.layers;
  session.choice.choose({ 0: ["conv1"] });
  model.put({ layers1: ["conv1"] });
  session.choice.choose({ 0: ["nowhere"] });
  model.message({ kind: "refused" });
  expect(session.choice.layers[0]).toEqual(["conv1"]);
  session.choice.undo();
  expect(session.choice.layers[0]).toEqual(all);
});

test("the kernel's silence after a button is reported after four seconds", () => {
  session.run.command("pause");
  model.put({ status: "paused" });
  vi.advanceTimersByTime(ANSWER_WITHIN_MS + 1);
  expect(session.messages.current.text).toBe("");
  session.run.command("resume");
  vi.advanceTimersByTime(ANSWER_WITHIN_MS + 1);
  expect(session.messages.current.text).toContain("No answer from the kernel");
  model.put({ status: "running" });
  expect(session.messages.current.text).toBe("");
});

test("a restarted kernel is reported at once, until one is found again", async () => {
  const runtime = new FakeModel({});
  model.widget_manager = { get_model: async () => runtime };
  session.subscribe((change) => changes.push(change));
  const connect = async (live: boolean) => {
    model.connect(live);
    runtime.connect(live);
    await vi.advanceTimersByTimeAsync(60);
  };
  await connect(false);
  expect(session.messages.current.text).toContain(
    "No answer from the kernel: it was restarted",
  );
  expect(session.connection.isConnected).toBe(false);
  expect(changes).toContain("status");
  session.messages.dismiss();
  model.send = () => {
    throw new Error("Cannot send");
  };
  session.focus.set(["conv1", "head"]);
  expect(session.focus.value).toEqual(["conv1", "head"]);
  expect(session.messages.current.text).toBe("");
  session.run.command("run");
  expect(session.messages.current.text).toContain("No answer from the kernel");
  await connect(true);
  expect(session.messages.current.text).toBe("");
  expect(session.connection.isConnected).toBe(true);
});

test("a page that never had a kernel is a saved one, and does not complain", async () => {
  const runtime = new FakeModel({});
  runtime.comm_live = false;
  model = new FakeModel(stateOf({ status: "running" }));
  model.widget_manager = { get_model: async () => runtime };
  session = new Session(model);
  await vi.advanceTimersByTimeAsync(0);
  expect(session.connection.isSaved).toBe(true);
  expect(session.run.status).toBe("stopped");
  model.connect(false);
  await vi.advanceTimersByTimeAsync(60);
  expect(session.messages.current.text).toBe("");
  runtime.connect(true);
  model.connect(true);
  await vi.advanceTimersByTimeAsync(60);
  expect(session.connection.isSaved).toBe(false);
});

test("a page that cannot find the shared model may have a kernel", async () => {
  model.widget_manager = {
    get_model: async () => {
      throw new Error("model not found");
    },
  };
  session = new Session(model);
  await vi.advanceTimersByTimeAsync(0);
  expect(session.connection.isSaved).toBe(false);
});

test("a closed comm is reported", () => {
  model.send = () => {
    throw new Error("Comm is closed");
  };
  session.run.command("run");
  expect(session.messages.current.text).toBe(
    "The kernel cannot be reached. Comm is closed",
  );
});

test("a kernel of another protocol is reported at once", () => {
  begin({ _protocol: PROTOCOL + 1 });
  expect(session.messages.current.text).toContain(
    `Expected protocol ${PROTOCOL} from the kernel, got ${PROTOCOL + 1}`,
  );
});

test("at most eight cells are pinned, and pinning again unpins", () => {
  for (let k = 0; k < 12; k++) session.pins.toggle([`a${k}`, "b"]);
  expect(session.pins.pairs).toHaveLength(MAX_PINS);
  session.pins.toggle(["a11", "b"]);
  expect(session.pins.pairs).toHaveLength(MAX_PINS - 1);
});

test("the kernel's history completes the page's after a reload", () => {
  const { rows, cols } = size();
  frame(30);
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  const [facts, codes] = wireHistory(
    [
      [5, 0.25, 0.5],
      [10, 0.25, 0.25],
    ],
    rows,
    cols,
  );
  model.message({ kind: "history", epoch: 1, rows, cols, ...facts }, [codes]);
  const { batches, stderrs } = session.frames.history.cell(3);
  expect(batches).toEqual([5, 10, 30]);
  expect(stderrs.slice(0, 2)).toEqual([0.5, 0.25]);
});

test("the history of a larger map waits for its first frame", () => {
  frame(1);
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  const before = session.frames.history.cell(3);
  const { rows, cols } = size();
  const [facts, codes] = wireHistory([[1, 0.25, 0.5]], rows, cols);
  model.put({ _axes: { ...(stateOf()._axes as object), epoch: 2 } });
  model.message({ kind: "history", epoch: 2, rows, cols, ...facts }, [codes]);
  expect(session.frames.history.cell(3)).toEqual(before);
  frame(2, { epoch: 2 });
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  expect(session.frames.history.cell(3).batches).toEqual([1, 2]);
  expect(session.frames.history.cell(3).values[0]).toBe(0.25);
});

test("the kernel is asked for BokehJS, and its silence is an error", async () => {
  const asked = session.connection.requestBokeh("3.9.2", 1000);
  expect(model.sentOf("need_bokeh")).toEqual([
    { kind: "need_bokeh", version: "3.9.2" },
  ]);
  model.message({ kind: "bokehjs", version: "3.9.2" }, [
    new DataView(Uint8Array.of(7).buffer),
  ]);
  expect(await asked).toEqual(Uint8Array.of(7));
  const silent = session.connection.requestBokeh("3.9.2", 1000);
  const refused = expect(silent).rejects.toThrow("did not send BokehJS 3.9.2");
  vi.advanceTimersByTime(1001);
  await refused;
});

test("closing leaves no listener on the model and no timer behind", () => {
  session.run.command("run");
  frame(1);
  session.choice.choose({ 0: ["fc"] });
  model.put({ layers1: ["conv1"] });
  session.close();
  expect(model.listeners()).toBe(0);
  expect(vi.getTimerCount()).toBe(0);
});
