import { describe, expect, test } from "vitest";
import { widest } from "../../../src/drawing/layout.ts";
import { planFor } from "../../../src/drawing/plan.ts";
import { mapView } from "../../../src/map/view.ts";
import { Session } from "../../../src/state/session.ts";
import { FakeModel, PLAIN, sourceOf, stateOf } from "../../fake.ts";

/** A session of two models with the same layers, and other facts about them. */
function sessionOf(names: string[], meta: Record<string, string> = {}): Session {
  const layers = { layers1: names, layers2: names };
  const axes = { epoch: 1, ...layers, undefined1: {}, undefined2: {}, notes: [] };
  const state = stateOf();
  const _meta = { ...(state._meta as object), ...meta };
  return new Session(new FakeModel({ ...state, ...layers, _axes: axes, _meta }));
}

describe.each([240, 268, 300, 360, 900])("in %i pixels", (width) => {
  const planOf = (names: string[], meta?: Record<string, string>) => {
    const session = sessionOf(names, meta);
    const plan = planFor(session.comparison, mapView(sourceOf(session), PLAIN), PLAIN, {
      width,
      family: "x",
    });
    session.close();
    return plan;
  };
  const long = Array.from({ length: 60 }, (_, k) =>
    k % 2 ? `encoder.layers.${k}.self_attention_projection` : `${k}${"m".repeat(50)}`,
  );

  test("row labels end where the title beside them begins, and leave a map", () => {
    const { rows, geometry } = planOf(long);
    const { labels } = rows.ticks(0, long.length, geometry.height);
    const outermost = geometry.left - 9 - widest([...labels.values()], "x");
    expect(outermost).toBeGreaterThanOrEqual(9 + 12 / 2);
    expect(geometry.width - geometry.left - geometry.right).toBeGreaterThan(80);
  });

  test("titles are no longer than their axes", () => {
    const name = "a model of a very long name ".repeat(8);
    const { rows, columns, geometry } = planOf(long, { name1: name, name2: name });
    expect(widest([rows.title], "x")).toBeLessThanOrEqual(geometry.height);
    expect(widest([columns.title], "x")).toBeLessThanOrEqual(geometry.width);
    expect(rows.title).toContain("a model");
  });
});

test("a narrow map has no room for brackets whose names would not fit", () => {
  const deep = Array.from({ length: 40 }, (_, k) => `blocks.${k >> 1}.${k % 2}`);
  const session = sessionOf(deep);
  const at = (width: number) => {
    const view = mapView(sourceOf(session), PLAIN);
    return planFor(session.comparison, view, PLAIN, { width, family: "x" }).geometry;
  };
  expect(at(420)).toMatchObject({ rowBrackets: false, columnBrackets: false });
  expect(at(1000)).toMatchObject({ rowBrackets: true, columnBrackets: true });
  expect(at(420).bottom).toBe(at(1000).bottom - 20);
  session.choice.choose({ 0: deep.slice(0, 8), 1: deep.slice(0, 8) });
  expect(at(420).columnBrackets).toBe(true);
  session.close();
});
