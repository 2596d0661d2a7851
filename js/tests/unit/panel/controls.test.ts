import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Controls } from "../../../src/panel/controls.ts";
import { ECHO_MS } from "../../../src/state/changes.ts";
import { PAINT_WITHIN_MS } from "../../../src/state/frames.ts";
import { Session } from "../../../src/state/session.ts";
import { FakeModel, stateOf, wireFrame } from "../../fake.ts";

const ESTIMATE = "about 40 s, 12 MB of Gram matrices";

let model: FakeModel;
let session: Session;
let controls: Controls;

function begin(state: Record<string, unknown> = {}): void {
  model = new FakeModel({ ...stateOf(), ...state });
  session = new Session(model);
  controls = new Controls(session, document.createElement("button"));
  session.subscribe((change) => controls.update(change));
}

const line = () => controls.element.querySelector(".cka-progress-line")?.textContent;
const field = () => controls.element.querySelector("input") as HTMLInputElement;

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
});

test("the estimate of the run is shown until the first frame", () => {
  begin({ status: "running" });
  expect(line()).toMatch(/first batch\u2026$/);
  model.put({ _estimate: ESTIMATE });
  expect(line()).toMatch(/batches of 64 \u00b7 about 40 s, 12 MB of .*: starting$/);
  model.put({ status: "idle" });
  expect(line()).toMatch(/\u00b7 about 40 s, 12 MB of Gram matrices$/);
});

test("a saved result has no buttons to run it, and says why", () => {
  const meta = stateOf()._meta as Record<string, unknown>;
  const saved = () => controls.element.querySelector<HTMLElement>(".cka-orders > span");
  const buttons = () => controls.element.querySelector<HTMLElement>(".cka-buttons");
  begin({ status: "done" });
  expect(saved()?.hidden).toBe(true);
  expect(buttons()?.hidden).toBe(false);
  session.close();
  begin({ status: "done", _meta: { ...meta, computes: false } });
  expect(saved()?.hidden).toBe(false);
  expect(saved()?.textContent).toBe("Saved result: no models to run");
  expect(buttons()?.hidden).toBe(true);
  expect(field().closest("label")?.hidden).toBe(true);
});

test("long work is discarded only when asked twice", () => {
  begin({ status: "running" });
  model.message(...wireFrame({ seq: 60, rows: 11, cols: 15 }));
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  const restart = () =>
    [...controls.element.querySelectorAll<HTMLElement>(".cka-buttons button")].at(-1);
  restart()?.click();
  expect(restart()?.textContent).toBe("Discard 00:50?");
  expect(model.sentOf("command")).toEqual([]);
  vi.advanceTimersByTime(6000);
  expect(restart()?.textContent).toBe("Restart");
  restart()?.click();
  restart()?.click();
  expect(model.sentOf("command")).toEqual([{ kind: "command", name: "restart" }]);
});

test("short work is discarded at the first click", () => {
  begin({ status: "running" });
  model.message(...wireFrame({ seq: 30, rows: 11, cols: 15 }));
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  const buttons = controls.element.querySelectorAll<HTMLElement>(".cka-buttons button");
  expect([...buttons].at(-1)?.textContent).toBe("Restart");
  [...buttons].at(-1)?.click();
  expect(model.sentOf("command")).toEqual([{ kind: "command", name: "restart" }]);
});

test("the tolerance of the constructor is in the field, and Python may change it", () => {
  begin({ stop_when_stable: 0.005 });
  expect(field().value).toBe("0.005");
  model.put({ stop_when_stable: null });
  expect(field().value).toBe("");
  model.put({ stop_when_stable: 0.25 });
  expect(field().value).toBe("0.25");
});

test("a typed tolerance is sent, and its echo does not undo the next one", () => {
  begin();
  field().value = "0,01";
  field().dispatchEvent(new Event("change"));
  expect(model.sentOf("tolerance")).toEqual([{ kind: "tolerance", value: 0.01 }]);
  field().value = "0.02";
  field().dispatchEvent(new Event("change"));
  model.put({ stop_when_stable: 0.01 });
  expect(field().value).toBe("0.02");
  model.put({ stop_when_stable: 0.02 });
  vi.advanceTimersByTime(ECHO_MS + 10);
  expect(field().value).toBe("0.02");
});
