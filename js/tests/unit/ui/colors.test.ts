import { expect, test } from "vitest";
import { paint, type Rgb, rgbOf } from "../../../src/ui/colors.ts";

test("colors are read in the notations of CSS", () => {
  expect(rgbOf("#2a9d8f")).toEqual([42, 157, 143]);
  expect(rgbOf("rgb(42, 157, 143)")).toEqual([42, 157, 143]);
});

test("values take the colors of the palette, undefined ones stay transparent", () => {
  const palette: Rgb[] = [
    [0, 0, 0],
    [10, 10, 10],
    [20, 20, 20],
    [30, 30, 30],
  ];
  const values = Float32Array.of(0, 0.25, 0.74, 1, 1.5, -0.1, Number.NaN);
  const pixels = new Uint8ClampedArray(4 * values.length);
  paint(pixels, values, { palette, below: [1, 2, 3], limits: [0, 1] });
  const reds = Array.from(values, (_, k) => pixels[4 * k]);
  expect(reds).toEqual([0, 10, 20, 30, 30, 1, 0]);
  expect(pixels[3]).toBe(255);
  expect(pixels.at(-1)).toBe(0);
});
