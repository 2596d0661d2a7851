import { afterEach, beforeEach, expect, test, vi } from "vitest";
import loader from "../../src/loader.ts";
import { LARGE_TRAITS } from "../../src/protocol.ts";
import { FakeModel, stateOf } from "../fake.ts";

const evaluated = vi.hoisted(() => vi.fn());
vi.mock(import("../../src/once.ts"), async (original) => {
  return { ...(await original()), imported: evaluated };
});

const settled = () => vi.advanceTimersByTimeAsync(0);
let done: string[];

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("BUILD", "build-1");
  done = [];
  evaluated.mockReset().mockImplementation(async () => ({
    initialize: () => {
      done.push("initialized");
      return () => done.push("closed");
    },
    render: () => {
      done.push("drawn");
      return () => done.push("removed");
    },
  }));
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  Reflect.deleteProperty(globalThis, Symbol.for("cka_notebook.code"));
});

/** A model whose shared model has this code; without code the reference is broken. */
function modelWith(code?: string): FakeModel {
  const model = new FakeModel(stateOf());
  model.widget_manager = {
    get_model: async () => {
      if (code === undefined) throw new Error("model not found");
      return new FakeModel({ code });
    },
  };
  return model;
}

const view = (model: FakeModel, el = document.createElement("div")) => ({
  el,
  close: loader.render({ model, el }),
});

test("the code is evaluated once, and each explorer runs its hooks", async () => {
  for (const model of [modelWith("the code"), modelWith("the code")]) {
    const close = loader.initialize({ model });
    const shown = view(model);
    await settled();
    shown.close();
    close();
  }
  expect(evaluated.mock.calls).toEqual([["the code"]]);
  const once = ["initialized", "drawn", "removed", "closed"];
  expect(done).toEqual([...once, ...once]);
});

test("without the shared model the kernel is asked for the code", async () => {
  const model = modelWith();
  loader.initialize({ model });
  view(model);
  await settled();
  expect(model.sent).toEqual([{ kind: "need_code" }]);
  model.message({ kind: "frame" });
  model.message({ kind: "code", code: "sent code" });
  await settled();
  expect(evaluated.mock.calls).toEqual([["sent code"]]);
  expect(done).toEqual(["initialized", "drawn"]);
  expect(model.listeners()).toBe(0);
});

test("a view without code says so, and the next explorer tries again", async () => {
  const silent = modelWith();
  const { el } = view(silent);
  await vi.advanceTimersByTimeAsync(20000);
  expect(el.textContent).toContain("did not send its code");
  expect(silent.listeners()).toBe(0);
  view(modelWith("the code"));
  await settled();
  expect(done).toEqual(["drawn"]);
});

test("a model closed before the code has loaded is never initialized", async () => {
  const model = modelWith("the code");
  const close = loader.initialize({ model });
  view(model).close();
  close();
  await settled();
  expect(done).toEqual([]);
});

test("a closed model keeps no large traits", async () => {
  const model = modelWith("the code");
  const close = loader.initialize({ model });
  await settled();
  expect(model.get("_trees")).not.toBeNull();
  close();
  for (const name of LARGE_TRAITS) expect(model.get(name)).toBeNull();
});
