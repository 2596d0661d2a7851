import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Options } from "../../../src/map/view.ts";
import { bestMatchWords, readout, spoken } from "../../../src/map/words.ts";
import type { Session } from "../../../src/state/session.ts";
import { exampleSession, viewOf as viewOfSession } from "../example.ts";

const LAYERS1 = ["conv1", "layer1.0", "fc"];
const LAYERS2 = ["blocks.10", "blocks.9"];

let session: Session;

const viewOf = (options?: Partial<Options>) => viewOfSession(session, options);

beforeEach(() => {
  vi.useFakeTimers();
  const undefined1 = { fc: "constant: all examples give the same activations" };
  const layers = { layers1: LAYERS1, layers2: LAYERS2 };
  session = exampleSession({ ...layers, undefined1 }).session;
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
});

test("the readout has the ranks of a cell, or why it is undefined", () => {
  expect(readout(session.comparison, viewOf(), { row: 0, col: 0 })).toMatchObject({
    names: ["conv1", "blocks.10"],
    value: "0.8750 \u00b1\u202f0.0100",
  });
  const view = viewOf();
  const shown = view.shown && {
    ...view.shown,
    frame: { ...view.shown.frame, step: 0.0039 },
  };
  expect(
    readout(session.comparison, { ...view, shown }, { row: 0, col: 0 }).value,
  ).toBe("0.88 \u00b1\u202f0.010");
  const facts = readout(session.comparison, viewOf(), { row: 0, col: 0 }).facts;
  expect(facts).toContain("1st of 2 in row \u00b7 1st of 2 in column \u00b7 9 batches");
  expect(readout(session.comparison, viewOf(), { row: 2, col: 0 }).facts).toContain(
    "Undefined. fc: constant: all examples give the same activations",
  );
});

test("spoken text has no symbols", () => {
  expect(spoken(session.comparison, viewOf(), { row: 1, col: 0 })).toBe(
    "layer1.0 by blocks.10, minus 0.13 plus or minus 0.030",
  );
});

test("the best match names both layers, and an undefined row has none", () => {
  expect(
    bestMatchWords(session.comparison, viewOf(), { row: 0, col: 1 }, "row"),
  ).toEqual({
    of: "conv1",
    match: "blocks.10",
    rest: "(0.875\u00a0\u00b1\u202f0.010)",
  });
  expect(
    bestMatchWords(session.comparison, viewOf(), { row: 2, col: 0 }, "row"),
  ).toBeNull();
  vi.spyOn(session.comparison, "isSelf", "get").mockReturnValue(true);
  const view = viewOf();
  const itself = { ...view, columns: { ...view.columns, names: ["conv1", "fc"] } };
  const best = bestMatchWords(session.comparison, itself, { row: 0, col: 0 }, "row");
  expect(best?.match).toBe("fc");
});
