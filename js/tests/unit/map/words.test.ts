import { expect, test, vi } from "vitest";
import {
  bestMatchWords,
  missingWords,
  readout,
  spoken,
} from "../../../src/map/words.ts";
import {
  exampleForEachTest,
  exampleSession,
  LAYERS1,
  LAYERS2,
  viewOf as viewIn,
} from "../example.ts";

const each = exampleForEachTest();
const viewOf = each.viewOf;

test("the readout has the ranks of a cell, or why it is undefined", () => {
  expect(readout(each.session.comparison, viewOf(), { row: 0, col: 0 })).toMatchObject({
    names: ["conv1", "blocks.10"],
    value: "0.8750 \u00b1\u202f0.0100",
  });
  const view = viewOf();
  const shown = view.shown && {
    ...view.shown,
    frame: { ...view.shown.frame, step: 0.0039 },
  };
  expect(
    readout(each.session.comparison, { ...view, shown }, { row: 0, col: 0 }).value,
  ).toBe("0.88 \u00b1\u202f0.010");
  const facts = readout(each.session.comparison, viewOf(), { row: 0, col: 0 }).facts;
  expect(facts).toContain("1st of 2 in row \u00b7 1st of 2 in column \u00b7 9 batches");
  expect(
    readout(each.session.comparison, viewOf(), { row: 2, col: 0 }).facts,
  ).toContain("Undefined. fc: constant: all examples give the same activations");
});

test("spoken text has no symbols", () => {
  expect(spoken(each.session.comparison, viewOf(), { row: 1, col: 0 })).toBe(
    "layer1.0 by blocks.10, minus 0.13 plus or minus 0.030",
  );
});

test("the best match names both layers, and an undefined row has none", () => {
  expect(
    bestMatchWords(each.session.comparison, viewOf(), { row: 0, col: 1 }, "row"),
  ).toEqual({
    of: "conv1",
    match: "blocks.10",
    rest: "(0.875\u00a0\u00b1\u202f0.010)",
  });
  expect(
    bestMatchWords(each.session.comparison, viewOf(), { row: 2, col: 0 }, "row"),
  ).toBeNull();
  vi.spyOn(each.session.comparison, "isSelf", "get").mockReturnValue(true);
  const view = viewOf();
  const itself = { ...view, columns: { ...view.columns, names: ["conv1", "fc"] } };
  const best = bestMatchWords(
    each.session.comparison,
    itself,
    { row: 0, col: 0 },
    "row",
  );
  expect(best?.match).toBe("fc");
});

interface Case {
  readonly of: string;
  readonly state: Record<string, unknown>;
  readonly cell: string;
  readonly line: string;
}

const AFTER = "1 new layer is computed after this run.";
const ONCE =
  "1 new layer is not in this run, because its loader can be iterated only once. " +
  "A restart computes all layers over the remaining batches.";

test.each<Case>([
  {
    of: "queued in a run",
    state: { status: "running", _queued: true },
    cell: "Computed after this run",
    line: AFTER,
  },
  {
    of: "chosen in a run that is about to compute it",
    state: { status: "running", _queued: false },
    cell: "Not computed yet",
    line: "",
  },
  {
    of: "queued in a run that uses its loader up",
    state: { status: "running", _queued: true, _meta: { read_once: true } },
    cell: "Not computed in this run",
    line: ONCE,
  },
  {
    of: "queued, then paused",
    state: { status: "paused", _queued: true },
    cell: "Not computed yet: Resume",
    line: "1 chosen layer is not computed yet: Resume fills the map.",
  },
  {
    of: "chosen after the run",
    state: { status: "done", _queued: false },
    cell: "Not computed yet: Run",
    line: "1 chosen layer is not computed yet: Run fills the map.",
  },
  {
    of: "missing from a saved result",
    state: { status: "done", _meta: { computes: false } },
    cell: "Not computed",
    line: "1 chosen layer is not in this saved map.",
  },
])("a layer $of says in words when it is computed", ({ state, cell, line }) => {
  const { session, model } = exampleSession({
    ...{ layers1: LAYERS1, layers2: LAYERS2, state },
  });
  model.put({ layers2: [...LAYERS2, "head"] });
  const { comparison, choice, frames, run } = session;
  const view = viewIn(session);
  const place = { row: 0, col: 2 };
  expect(spoken(comparison, view, place)).toBe(`conv1 by head, ${cell}`);
  expect(readout(comparison, view, place).facts).toContain(cell);
  expect(missingWords(comparison.names, choice, frames.shown, run)).toBe(line);
  model.put({ layers2: LAYERS2 });
  expect(missingWords(comparison.names, choice, frames.shown, run)).toBe("");
  session.close();
});
