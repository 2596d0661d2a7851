import { afterEach, beforeEach, expect, test } from "vitest";
import { Session } from "../../../src/state/session.ts";
import { TreeSide } from "../../../src/tree/side.ts";
import { columnsFrom, FakeModel, stateOf, wireTree } from "../../fake.ts";

const [WIDE, SLIM, TINY] = [1000, 700, 420];
const SHARED = ["conv1", "bn1", "fc"];

let model: FakeModel;
let session: Session;
let root: HTMLElement;
let side: TreeSide;

function tree(names: readonly string[], reasons: Record<string, string> = {}) {
  const rows = names.map((name) => {
    const reason = reasons[name];
    return { name, type: "Linear", ...(reason && { reason }) };
  });
  return wireTree(
    columnsFrom([{ name: "", type: "Net", reason: "model" }, ...rows], {}),
  );
}

function show(state: Record<string, unknown> = {}): void {
  model = new FakeModel({
    ...stateOf({ status: "idle" }),
    _trees: {
      model1: tree([...SHARED, "extra.a", "extra.b", "extra.c", "extra.d", "extra.e"]),
      model2: tree([...SHARED, "extra.a"], { "extra.a": "never called" }),
    },
    layers1: SHARED,
    layers2: [],
    ...state,
  });
  session = new Session(model);
  root = document.createElement("div");
  document.body.replaceChildren(root);
  side = new TreeSide(session, root);
  root.append(side.element, side.toggle);
  session.subscribe((change) => side.update(change));
}

const isFolded = () => root.classList.contains("cka-folded");
const bar = () => side.element.querySelector(".cka-tree-bar") as HTMLElement;
const mirror = (k: number) =>
  side.element.querySelectorAll<HTMLElement>("[aria-label^='Mirror']")[k];

beforeEach(() => show());
afterEach(() => session.close());

test("mirroring is one message with the names of the other tree, and can be undone", () => {
  mirror(0)?.click();
  expect(model.sentOf("layers")).toEqual([{ kind: "layers", layers2: SHARED }]);
  expect(session.choice.layers).toEqual([SHARED, SHARED]);
  expect(session.messages.current.text).toBe("");
  session.choice.undo();
  expect(session.choice.layers).toEqual([SHARED, []]);
});

test("layers without a namesake are left out and reported until the next mirroring", () => {
  show({ layers1: [...SHARED, "extra.a", "extra.b", "extra.c", "extra.d", "extra.e"] });
  mirror(0)?.click();
  expect(session.choice.layers[1]).toEqual(SHARED);
  expect(session.messages.current).toEqual({
    kind: "note",
    text:
      "5 chosen layers have no namesake to choose in ViT-B/16: " +
      "extra.a, extra.b, extra.c and 2 more.",
  });
  session.choice.choose({ 0: SHARED });
  mirror(0)?.click();
  expect(session.messages.current.text).toBe("");
});

test("mirroring nothing is an error, and no message to the kernel", () => {
  show({ layers1: ["extra.b"], layers2: ["fc"] });
  mirror(0)?.click();
  expect(session.messages.current.text).toBe(
    "1 chosen layer has no namesake to choose in ViT-B/16: extra.b.",
  );
  show({ layers1: [] });
  mirror(0)?.click();
  expect(session.messages.current.text).toBe(
    "Expected chosen layers to mirror, got none: choose some first.",
  );
  expect(model.sentOf("layers")).toEqual([]);
});

test("trees stay beside the map; above it they fold to one line during a run", () => {
  side.resize(WIDE);
  model.put({ status: "running" });
  expect(isFolded()).toBe(false);
  side.resize(SLIM);
  expect(isFolded()).toBe(true);
  expect(bar().textContent).toBe("3 of 8 layers \u00d7 0 of 3 layers");
  expect(bar().getAttribute("aria-expanded")).toBe("false");
  side.resize(WIDE);
  expect(isFolded()).toBe(false);
});

test("a pause or the end of a run moves nothing", () => {
  side.resize(SLIM);
  expect(isFolded()).toBe(false);
  for (const status of ["running", "paused", "running", "done"]) {
    model.put({ status });
    expect(isFolded(), status).toBe(true);
  }
});

test("trees that the user unfolded stay", () => {
  side.resize(SLIM);
  model.put({ status: "running" });
  bar().click();
  expect(isFolded()).toBe(false);
  expect(bar().getAttribute("aria-expanded")).toBe("true");
  for (const status of ["paused", "running"]) {
    model.put({ status });
    expect(isFolded(), status).toBe(false);
  }
  side.resize(TINY);
  expect(isFolded()).toBe(false);
});

test("nothing folds under the keyboard's focus, nor when it leaves", () => {
  side.resize(SLIM);
  const search = side.element.querySelector("input");
  search?.focus();
  model.put({ status: "running" });
  side.resize(TINY);
  expect(isFolded()).toBe(false);
  expect(document.activeElement).toBe(search);
  side.toggle.focus();
  side.resize(SLIM);
  expect(isFolded()).toBe(false);
  model.put({ status: "paused" });
  model.put({ status: "running" });
  expect(isFolded()).toBe(true);
});

test("the line counts chosen layers", () => {
  session.choice.choose({ 0: ["fc"], 1: ["fc"] });
  expect(bar().textContent).toBe("1 of 8 layers \u00d7 1 of 3 layers");
});
