/** Values written into the cells of the map, where a cell is large enough. */

import { value } from "../ui/format.ts";
import type { MapView } from "./view.ts";

export interface Numbers {
  x: number[];
  y: number[];
  text: string[];
  color: string[];
}

/** What decides whether numbers fit, and their color. */
interface NumberContext {
  readonly cell: { readonly width: number; readonly height: number };
  readonly visible: { rows: [number, number]; cols: [number, number] };
  readonly limits: readonly [number, number];
  readonly palette: readonly string[];
}

const MIN_WIDTH = 28;
/** A line of 11 px text needs no more height than that. */
const MIN_HEIGHT = 15;

export function numbersFor(view: MapView | null, context: NumberContext): Numbers {
  const numbers: Numbers = { x: [], y: [], text: [], color: [] };
  const { cell, visible } = context;
  if (!view || cell.width < MIN_WIDTH || cell.height < MIN_HEIGHT) return numbers;
  const { cols, values } = view.values;
  for (let row = visible.rows[0]; row < visible.rows[1]; row++) {
    for (let col = visible.cols[0]; col < visible.cols[1]; col++) {
      const number = values[row * cols + col] ?? Number.NaN;
      if (Number.isNaN(number) || view.hides(row, col)) continue;
      numbers.x.push(col + 0.5);
      numbers.y.push(row + 0.5);
      numbers.text.push(value(number, 2));
      numbers.color.push(inkOn(number, context));
    }
  }
  return numbers;
}

/** Black or white, whichever is read better on the cell's color. */
function inkOn(number: number, { limits, palette }: NumberContext): string {
  const [low, high] = limits;
  if (number < 0 && low >= 0) return "#000000";
  const share = Math.max(0, Math.min(1, (number - low) / (high - low)));
  const color = palette[Math.round(share * (palette.length - 1))] ?? "#000000";
  return luminance(color) > 0.18 ? "#000000" : "#ffffff";
}

/** Relative luminance as WCAG defines it. */
export function luminance(color: string): number {
  const [red = 0, green = 0, blue = 0] = [1, 3, 5].map((at) => {
    const part = Number.parseInt(color.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
