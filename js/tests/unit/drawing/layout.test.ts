import { expect, test } from "vitest";
import { fittingLimit, geometryFor, labelRoom } from "../../../src/drawing/layout.ts";
import { shortLabel, usualPrefix } from "../../../src/matrix/labels.ts";

test("long names lose their usual prefix before the map loses its room", () => {
  const names = [0, 1, 2].map((k) => `encoder.stages.${k}.layers.0`);
  const usual = usualPrefix(names);
  const pixels = (limit: number) =>
    Math.max(...names.map((name) => 6 * shortLabel(name, usual, limit).length));
  const fitting = (width: number) => fittingLimit(pixels, labelRoom(width, false), 28);
  expect(shortLabel(names[1] ?? "", usual, fitting(650))).toBe("\u20261.layers.0");
  expect(shortLabel(names[1] ?? "", usual, fitting(900))).toBe(names[1]);
});

test("charts fit their width, from a phone to a wide screen", () => {
  for (const width of [240, 280, 420, 700, 1400]) {
    const geometry = geometryFor(width, {
      rows: 11,
      cols: 15,
      rowLabel: labelRoom(width, true),
      columnLabel: 90,
      ...{ rowBlocks: true, columnBlocks: true, rowTree: true, columnTree: true },
      isSquare: false,
    });
    expect(geometry.width + geometry.aside).toBeLessThanOrEqual(width);
    const { left, right } = geometry;
    expect(geometry.width - left - right).toBeGreaterThan(60);
    expect(geometry.history.width).toBeLessThanOrEqual(width);
    expect(geometry.height).toBeGreaterThanOrEqual(200);
  }
});
