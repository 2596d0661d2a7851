import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Missing } from "../../../src/panel/missing.ts";
import type { Session } from "../../../src/state/session.ts";
import type { FakeModel } from "../../fake.ts";
import { exampleSession, LAYERS1, LAYERS2 } from "../example.ts";

let model: FakeModel;
let session: Session;
let missing: Missing;
let root: HTMLElement;

const words = () => missing.element.querySelector('[role="status"]')?.textContent;
const button = () => missing.element.querySelector("button") as HTMLButtonElement;

/** A run at its ninth batch, after as many seconds as it has batches. */
beforeEach(() => {
  vi.useFakeTimers();
  const state = { status: "running" };
  ({ model, session } = exampleSession({ layers1: LAYERS1, layers2: LAYERS2, state }));
  missing = new Missing(session);
  root = document.createElement("div");
  root.className = "cka";
  root.tabIndex = -1;
  root.append(missing.element);
  document.body.append(root);
  session.subscribe(() => missing.draw());
  missing.draw();
});

afterEach(() => {
  session.close();
  root.remove();
  vi.useRealTimers();
});

function queue(): void {
  model.put({ layers1: [...LAYERS1, "head"], _queued: true });
}

test("layers queued in a run can be computed at once, on request", () => {
  expect([words(), button().hidden]).toEqual(["", true]);
  queue();
  expect(words()).toBe("1 new layer is computed after this run.");
  expect([button().hidden, button().textContent]).toEqual([false, "Restart now"]);
  button().click();
  expect(model.sentOf("command")).toEqual([{ kind: "command", name: "restart" }]);
});

test("a choice taken back leaves no words and no button", () => {
  queue();
  model.put({ layers1: LAYERS1, _queued: false });
  expect([words(), button().hidden]).toEqual(["", true]);
});

test("the focus stays in the explorer when the button goes", () => {
  queue();
  button().focus();
  expect(document.activeElement).toBe(button());
  model.put({ status: "paused" });
  expect(words()).toBe("1 chosen layer is not computed yet: Resume fills the map.");
  expect(button().hidden).toBe(true);
  expect(document.activeElement).toBe(root);
});

test("long work is discarded only when asked twice", () => {
  queue();
  const shown = session.frames.shown;
  if (shown)
    session.frames.shown = { ...shown, frame: { ...shown.frame, seconds: 75 } };
  button().click();
  expect(button().textContent).toBe("Discard 01:15?");
  expect(model.sentOf("command")).toEqual([]);
  vi.advanceTimersByTime(6000);
  expect(button().textContent).toBe("Restart now");
  button().click();
  button().click();
  expect(model.sentOf("command")).toHaveLength(1);
});
