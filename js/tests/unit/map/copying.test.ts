import { afterEach, beforeEach, expect, test, vi } from "vitest";
import codeWire from "../../../../tests/wire/code.json";
import {
  cellText,
  codeText,
  copyText,
  mapText,
  pairsText,
} from "../../../src/map/copying.ts";
import type { Session } from "../../../src/state/session.ts";
import { exampleSession, viewOf } from "../example.ts";

const LAYERS1 = ["conv1", 'a"\t\n', "fc"];
const LAYERS2 = ["blocks.0", "head"];

let session: Session;

function begin(state: Record<string, unknown> = {}): void {
  const layers = { layers1: LAYERS1, layers2: LAYERS2 };
  ({ session } = exampleSession({ ...layers, state }));
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

test("without access to the clipboard the text is selected and copied", async () => {
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
