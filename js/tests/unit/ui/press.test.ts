import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Press } from "../../../src/ui/press.ts";

let root: HTMLElement;
let gone: AbortController;
let press: Press;
const act = vi.fn();

const fire = (name: string, target: EventTarget = root) =>
  target.dispatchEvent(new Event(name, { bubbles: true }));

beforeEach(() => {
  vi.useFakeTimers();
  act.mockReset();
  root = document.createElement("div");
  document.body.replaceChildren(root);
  gone = new AbortController();
  press = new Press(root, gone.signal);
});

afterEach(() => {
  gone.abort();
  vi.useRealTimers();
});

test("what comes while the button is down waits for the end of the click", () => {
  press.act("frame", act);
  expect(act).toHaveBeenCalledTimes(1);
  fire("pointerdown");
  press.act("frame", act);
  press.act("frame", act);
  fire("pointerup", document.body);
  expect(act).toHaveBeenCalledTimes(1);
  vi.advanceTimersByTime(0);
  expect(act).toHaveBeenCalledTimes(2);
});

test("what the click itself brings about does not wait", () => {
  fire("pointerdown");
  fire("pointerup");
  press.act("layers", act);
  expect(act).toHaveBeenCalledTimes(1);
});

test("a button that is held for long, or never let go, holds nothing up", () => {
  fire("pointerdown");
  press.act("frame", act);
  vi.advanceTimersByTime(1000);
  expect(act).toHaveBeenCalledTimes(1);
  press.act("frame", act);
  expect(act).toHaveBeenCalledTimes(2);
});

test("of what has waited, one that fails keeps no other from being done", () => {
  const report = vi.fn();
  vi.stubGlobal("reportError", report);
  fire("pointerdown");
  press.act("frame", () => {
    throw new Error("no canvas");
  });
  press.act("status", act);
  fire("pointerup");
  vi.advanceTimersByTime(0);
  expect(act).toHaveBeenCalledTimes(1);
  expect(report).toHaveBeenCalledTimes(1);
  vi.unstubAllGlobals();
});

test("a view that is removed while it is pressed waits for nothing", async () => {
  fire("pointerdown");
  const up = press.up();
  gone.abort();
  await expect(up).resolves.toBeUndefined();
});
