import { afterEach, beforeEach, expect, test, vi } from "vitest";
import codeWire from "../../../../tests/wire/code.json";
import {
  cellText,
  codeText,
  copyText,
  mapText,
  pairsText,
} from "../../../src/map/copying.ts";
import { type MapView, mapView } from "../../../src/map/view.ts";
import { noteLines } from "../../../src/panel/notes.ts";
import { MapTable } from "../../../src/panel/table.ts";
import type { Axes } from "../../../src/protocol.ts";
import { PAINT_WITHIN_MS } from "../../../src/state/frames.ts";
import { Session } from "../../../src/state/session.ts";
import { FakeModel, PLAIN, sourceOf, stateOf, wireFrame } from "../../fake.ts";

const LAYERS1 = ["conv1", 'a"\t\n', "fc"];
const LAYERS2 = ["blocks.0", "head"];

let model: FakeModel;
let session: Session;

function begin(state: Record<string, unknown> = {}): void {
  const axes = {
    ...{ epoch: 1, layers1: LAYERS1, layers2: LAYERS2, notes: [] },
    ...{ undefined1: {}, undefined2: {} },
  };
  const layers = { layers1: LAYERS1, layers2: LAYERS2 };
  model = new FakeModel({ ...stateOf(), ...layers, _axes: axes, ...state });
  session = new Session(model);
  const edit = (matrix: Float32Array, stderr: Float32Array) => {
    matrix.set([0.875, 0.25, -0.125, 0.5, Number.NaN, Number.NaN]);
    stderr.set([0.01, 0.02, 0.03, 0.04, Number.NaN, Number.NaN]);
  };
  model.message(...wireFrame({ seq: 1, batch: 9, rows: 3, cols: 2, edit }));
  vi.advanceTimersByTime(PAINT_WITHIN_MS);
}

const shownAxes = () => session.frames.shown?.axes as Axes;

function view(): MapView {
  return mapView(sourceOf(session), { ...PLAIN });
}

test("pairs are lines of names, value and error; hostile names keep their line", () => {
  const cells = [
    { row: 0, col: 1 },
    { row: 2, col: 0 },
  ];
  const lines = pairsText(session.comparison, view(), cells).split("\n");
  expect(lines[0]?.split("\t").slice(2)).toEqual(["CKA", "standard error"]);
  expect(lines[1]?.split("\t")).toEqual([LAYERS1[0], LAYERS2[1], "0.25", "0.02"]);
  expect(lines[2]?.split("\t").slice(2)).toEqual(["", ""]);
  expect(lines).toHaveLength(4);
});

beforeEach(() => {
  vi.useFakeTimers();
  begin();
});

afterEach(() => {
  session.close();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test("a copied cell says models, layers, value, error and batches", () => {
  expect(cellText(session.comparison, view(), { row: 0, col: 1 })).toBe(
    "ResNet-18 conv1 \u00d7 ViT-B/16 head: CKA 0.2500 \u00b1\u202f0.0200 (9 batches)",
  );
  expect(cellText(session.comparison, view(), { row: 2, col: 0 })).toContain(
    "Undefined",
  );
});

test("a copied map is a table of values and a table of errors", () => {
  const lines = mapText(session.comparison, view()).split("\n");
  expect(lines.slice(0, 4)).toEqual([
    "CKA\tblocks.0\thead",
    "conv1\t0.875\t0.25",
    'a"  \t-0.125\t0.5',
    "fc\t\t",
  ]);
  expect(lines.slice(4, 7)).toEqual([
    "",
    "standard error\tblocks.0\thead",
    "conv1\t0.01\t0.02",
  ]);
});

test("copied code is the kernel's, with the layers chosen on the page", () => {
  session.close();
  const [layers1, layers2] = codeWire.layers;
  begin({ layers1, layers2, _code: codeWire.parts });
  expect(codeText(session.comparison, session.choice.layers)).toBe(codeWire.code);
  session.choice.choose({ 0: [], 1: ["embed"] });
  const [before, between, after] = codeWire.parts;
  expect(codeText(session.comparison, session.choice.layers)).toBe(
    `${before}[]${between}[\n        "embed",\n    ]${after}`,
  );
});

test("where the clipboard is closed the text is selected and copied", async () => {
  vi.stubGlobal("navigator", { clipboard: undefined });
  let selected = "";
  document.execCommand = () => {
    selected = document.querySelector("textarea")?.value ?? "";
    return true;
  };
  expect(await copyText("0.9")).toBe(true);
  expect(selected).toBe("0.9");
  expect(document.querySelector("textarea")).toBeNull();
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

test("grave notes come first, then the others, then undefined layers by reason", () => {
  const notes = ["`auto` shows 3 of 9 layers.", "The batches are not random: rho = 5."];
  const undefined1 = { conv1: "constant", fc: "constant" };
  const axes = { ...(model.state._axes as object), notes, undefined1 };
  model.put({ _axes: { ...axes, undefined2: { head: "not finite" } } });
  expect(noteLines(session.comparison, shownAxes())).toEqual([
    notes[1],
    notes[0],
    "ResNet-18: 2 layers (conv1, fc) are undefined, constant.",
    "ViT-B/16: head is undefined, not finite.",
  ]);
  const said = "ResNet-18: 2 layers ('conv1', 'fc') are undefined, constant.";
  model.put({ _axes: { ...axes, notes: [said] } });
  expect(noteLines(session.comparison, shownAxes())).toEqual([said]);
});
