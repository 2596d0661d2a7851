import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { noteLines } from "../../../src/panel/notes.ts";
import type { Axes } from "../../../src/protocol.ts";
import type { Session } from "../../../src/state/session.ts";
import type { FakeModel } from "../../fake.ts";
import { exampleSession } from "../example.ts";

const LAYERS1 = ["conv1", 'a"\t\n', "fc"];
const LAYERS2 = ["blocks.0", "head"];

let model: FakeModel;
let session: Session;

function begin(state: Record<string, unknown> = {}): void {
  const layers = { layers1: LAYERS1, layers2: LAYERS2 };
  ({ model, session } = exampleSession({ ...layers, state }));
}

const shownAxes = () => session.frames.shown?.axes as Axes;

beforeEach(() => {
  vi.useFakeTimers();
  begin();
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test("grave notes come first, then the others, then undefined layers by reason", () => {
  const notes = [
    { text: "`auto` shows 3 of 9 layers.", grave: false },
    { text: "The batches are not random: rho = 5.", grave: true },
  ];
  const undefined1 = { conv1: "constant", fc: "constant" };
  const axes = { ...(model.state._axes as object), notes, undefined1 };
  model.put({ _axes: { ...axes, undefined2: { head: "not finite" } } });
  expect(noteLines(session.comparison, shownAxes())).toEqual([
    notes[1]?.text,
    notes[0]?.text,
    "ResNet-18: 2 layers (conv1, fc) are undefined, constant.",
    "ViT-B/16: head is undefined, not finite.",
  ]);
  const said = "ResNet-18: 2 layers ('conv1', 'fc') are undefined, constant.";
  model.put({ _axes: { ...axes, notes: [{ text: said, grave: false }] } });
  expect(noteLines(session.comparison, shownAxes())).toEqual([said]);
});
