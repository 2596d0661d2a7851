/** Values written into the cells of the map, where cells are large enough. */

import { luminance } from "../ui/colors.ts";
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
/** Enough for a line of 11 px text. */
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

/** Black or white, whichever is easier to read on the cell's color. */
function inkOn(number: number, { limits, palette }: NumberContext): string {
  const [low, high] = limits;
  if (number < 0 && low >= 0) return "#000000";
  const share = Math.max(0, Math.min(1, (number - low) / (high - low)));
  const color = palette[Math.round(share * (palette.length - 1))] ?? "#000000";
  return luminance(color) > 0.18 ? "#000000" : "#ffffff";
}
