import { expect, test } from "vitest";
import { numbersFor } from "../../../src/map/numbers.ts";
import { exampleForEachTest } from "../example.ts";

const each = exampleForEachTest();
const viewOf = each.viewOf;

test("numbers are legible on both ends of diverging colors", () => {
  const ends = { limits: [-0.125, 0.125], palette: ["#000000", "#ffffff"] } as const;
  const visible = {
    rows: [1, 2] as [number, number],
    cols: [0, 1] as [number, number],
  };
  const around = { cell: { width: 30, height: 20 }, visible, ...ends };
  expect(numbersFor(viewOf(), around).color).toEqual(["#ffffff"]);
});

test("numbers are written where they fit, in a legible color", () => {
  const around = {
    cell: { width: 30, height: 20 },
    visible: { rows: [0, 3], cols: [0, 2] } as {
      rows: [number, number];
      cols: [number, number];
    },
    limits: [0, 1] as const,
    palette: ["#000000", "#ffffff"],
  };
  const numbers = numbersFor(viewOf(), around);
  expect(numbers.text).toEqual(["0.88", "0.25", "\u22120.13", "0.50"]);
  expect(numbers.color.slice(0, 2)).toEqual(["#000000", "#ffffff"]);
  const narrow = { ...around, cell: { width: 27, height: 20 } };
  expect(numbersFor(viewOf(), narrow).text).toEqual([]);
});
