import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { MapTable } from "../../../src/panel/table.ts";
import { PAINT_WITHIN_MS } from "../../../src/state/frames.ts";
import type { Session } from "../../../src/state/session.ts";
import { type FakeModel, wireFrame } from "../../fake.ts";
import { exampleSession, viewOf } from "../example.ts";

const LAYERS1 = ["conv1", 'a"\t\n', "fc"];
const LAYERS2 = ["blocks.0", "head"];

let model: FakeModel;
let session: Session;

function begin(state: Record<string, unknown> = {}): void {
  const layers = { layers1: LAYERS1, layers2: LAYERS2 };
  ({ model, session } = exampleSession({ ...layers, state }));
}

const view = () => viewOf(session);

beforeEach(() => {
  vi.useFakeTimers();
  begin();
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test("the table has headers, values with errors, and follows the frames", () => {
  const table = new MapTable(session.comparison, (pair) => session.focus.set(pair));
  table.setOpen(true);
  table.draw(view(), { row: 0, col: 1 });
  const cells = () =>
    [...table.element.querySelectorAll("td[data-at]")].map((cell) => cell.textContent);
  expect(cells()).toEqual([
    ...["0.875 \u00b1\u202f0.010", "0.250 \u00b1\u202f0.020"],
    ...["\u22120.125 \u00b1\u202f0.030", "0.500 \u00b1\u202f0.040"],
    ...["undefined", "undefined"],
  ]);
  const headers = [...table.element.querySelectorAll("th")];
  expect(headers.map((header) => header.textContent)).toEqual([...LAYERS2, ...LAYERS1]);
  expect(headers.map((header) => header.scope)).toEqual(
    [..."ccrrr"].map((first) => (first === "c" ? "col" : "row")),
  );
  expect(table.element.querySelector(".cka-picked")?.textContent).toContain("0.250");
  const before = table.element.querySelector("td[data-at]");
  model.message(
    ...wireFrame({ seq: 2, rows: 3, cols: 2, edit: (matrix) => matrix.fill(0.75) }),
  );
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
  table.draw(view(), { row: 0, col: 1 });
  vi.advanceTimersByTime(1000);
  expect(cells()[5]).toContain("0.750");
  expect(table.element.querySelector("td[data-at]")).toBe(before);
  (before as HTMLElement).click();
  expect(session.focus.value).toEqual(["conv1", "blocks.0"]);
  table.destroy();
});

test("a large map is a table of the row in focus", () => {
  const many = Array.from({ length: 61 }, (_, k) => `layer.${k}`);
  session.choice.choose({ 1: [...LAYERS2, ...many] });
  const table = new MapTable(session.comparison, (pair) => session.focus.set(pair));
  table.setOpen(true);
  table.draw(view(), { row: 1, col: 0 });
  expect(table.element.querySelectorAll("th")).toHaveLength(63);
  const cells = [...table.element.querySelectorAll("td")].map((td) => td.textContent);
  expect(cells.slice(0, 3)).toEqual([
    ...["\u22120.125 \u00b1\u202f0.030", "0.500 \u00b1\u202f0.040", "not yet"],
  ]);
  table.destroy();
});
