import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { INK } from "../../../src/drawing/picture.ts";
import { luminance } from "../../../src/ui/colors.ts";

const css = readFileSync("src/styles.css", "utf-8");

/** The custom properties of a rule that are colors. */
function tokens(selector: string): Record<string, string> {
  const start = css.indexOf(`${selector} {`);
  const body = css.slice(start, css.indexOf("\n}", start));
  const found = body.matchAll(/--cka-([\w-]+): (#[0-9a-f]{6});/g);
  return Object.fromEntries([...found].map(([, name, color]) => [name, color]));
}

const light = tokens(".cka");
const themes = { light, dark: { ...light, ...tokens('.cka[data-theme="dark"]') } };

function contrast(a = "", b = ""): number {
  const [low = 0, high = 0] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

const PINS = [1, 2, 3, 4, 5, 6, 7, 8].map((k) => `pin${k}`);

/** Foreground and background colors: contrast 4.5 for text, 3 for graphics. */
const PAIRS: [string[], string[], number][] = [
  [["text", "muted"], ["raised", "sunken", "hover"], 4.5],
  [["row", "column", "history", "accent", "error"], ["raised"], 4.5],
  [["accent"], ["tint"], 4.5],
  [["on-accent"], ["accent"], 4.5],
  [["error"], ["error-tint"], 4.5],
  [["note"], ["note-tint", "raised"], 4.5],
  [["control", "accent"], ["raised", "sunken"], 3],
  [[...PINS], ["raised"], 3],
];

describe.each(Object.entries(themes))("in the %s theme", (_, theme) => {
  for (const [inks, papers, least] of PAIRS) {
    for (const ink of inks) {
      test.each(papers)(`${ink} is seen on %s`, (paper) => {
        expect(theme[ink]).toMatch(/^#/);
        expect(theme[paper]).toMatch(/^#/);
        expect(contrast(theme[ink], theme[paper])).toBeGreaterThanOrEqual(least);
      });
    }
  }
});

test("saved pictures have the colors of the light theme", () => {
  expect(light).toMatchObject(INK);
});

test("black on white is 21, as the standard says", () => {
  expect(contrast("#000000", "#ffffff")).toBeCloseTo(21, 6);
});
