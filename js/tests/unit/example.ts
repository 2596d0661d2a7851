/** A session that shows a small map of known values. */

import { afterEach, beforeEach, vi } from "vitest";
import { type MapView, mapView, type Options } from "../../src/map/view.ts";
import { PAINT_WITHIN_MS } from "../../src/state/frames.ts";
import { Session } from "../../src/state/session.ts";
import { FakeModel, PLAIN, sourceOf, stateOf, wireFrame } from "../fake.ts";

export const LAYERS1 = ["conv1", "layer1.0", "fc"];
export const LAYERS2 = ["blocks.10", "blocks.9"];

/** Three layers by two: the values of the first frame. */
export const VALUES = [0.875, 0.25, -0.125, 0.5, Number.NaN, Number.NaN];
const ERRORS = [0.01, 0.02, 0.03, 0.04, Number.NaN, Number.NaN];

interface Example {
  readonly layers1: readonly string[];
  readonly layers2: readonly string[];
  readonly errors?: readonly number[];
  readonly undefined1?: Readonly<Record<string, string>>;
  readonly state?: Record<string, unknown>;
}

/** Fake timers must be on: the frame is shown as in a hidden tab. */
export function exampleSession(example: Example): {
  model: FakeModel;
  session: Session;
} {
  const { errors = ERRORS, undefined1 = {}, state } = example;
  const layers = { layers1: example.layers1, layers2: example.layers2 };
  const _axes = { epoch: 1, ...layers, undefined1, undefined2: {}, notes: [] };
  const model = new FakeModel({ ...stateOf(), ...layers, _axes, ...state });
  const session = new Session(model);
  const edit = (matrix: Float32Array, stderr: Float32Array) => {
    matrix.set(VALUES);
    stderr.set(errors);
  };
  model.message(...wireFrame({ seq: 1, batch: 9, rows: 3, cols: 2, edit }));
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  return { model, session };
}

export function viewOf(session: Session, options: Partial<Options> = {}): MapView {
  return mapView(sourceOf(session), { ...PLAIN, ...options });
}

/** The example of these layers, new for each test of a file, with fake timers. */
export function exampleForEachTest(): {
  readonly session: Session;
  viewOf(options?: Partial<Options>): MapView;
} {
  let session: Session | undefined;
  const current = () => {
    if (!session) throw new Error("The example exists only within a test.");
    return session;
  };
  beforeEach(() => {
    vi.useFakeTimers();
    const undefined1 = { fc: "constant: all examples give the same activations" };
    const layers = { layers1: LAYERS1, layers2: LAYERS2 };
    session = exampleSession({ ...layers, undefined1 }).session;
  });
  afterEach(() => {
    session?.close();
    vi.useRealTimers();
  });
  return {
    get session() {
      return current();
    },
    viewOf: (options) => viewOf(current(), options),
  };
}
