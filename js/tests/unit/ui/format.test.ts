import { expect, test } from "vitest";
import * as format from "../../../src/ui/format.ts";

test("numbers are grouped, shortened and signed as people read them", () => {
  expect(format.count(4736)).toBe("4\u202f736");
  expect(format.count(1234567)).toBe("1\u202f234\u202f567");
  expect(format.count(12)).toBe("12");
  expect([999, 1000, 36928, 999499, 999500, 11689512].map(format.short)).toEqual([
    "999",
    "1.00k",
    "36.9k",
    "999k",
    "1.00M",
    "11.7M",
  ]);
  expect(format.value(-0.01234)).toBe("\u22120.012");
  expect(format.value(-0.0001)).toBe("0.000");
  expect(format.value(Number.NaN)).toBe("\u2013");
  expect(format.plusMinus(null)).toBe("");
});

test("time and shapes are short", () => {
  expect(format.clock(31)).toBe("00:31");
  expect(format.clock(3723)).toBe("1:02:03");
  expect(format.shape([null, 64, 56, 56])).toBe("64\u00d756\u00d756");
  expect(format.shape(null)).toBe("");
  expect(format.plural(1, "batch", "batches")).toBe("1 batch");
  expect(format.layerName("", "ResNet")).toBe("ResNet");
});
