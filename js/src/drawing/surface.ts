/** The interface that BokehJS and the sketch share, and its types. */

import type { Box, BoxKind } from "../map/image.ts";
import type { Marks } from "../map/marks.ts";
import type { Cell } from "../map/view.ts";
import type { TicksOf } from "../matrix/labels.ts";
import type { Theme } from "../ui/theme.ts";

/** Height of a mark within a cell that also has a number, as a share of the cell. */
export const ABOVE_NUMBER = 0.2;

export type Span = readonly [from: number, to: number];

/** The part of the map that is visible, in cells and fractions of cells. */
export interface Viewport {
  readonly rows: Span;
  readonly cols: Span;
}

/** A trend: values with their standard errors at positions along an axis. */
export interface TrendLine {
  readonly at: readonly number[];
  readonly value: readonly number[];
  readonly stderr: readonly number[];
}

export interface PinnedLine extends TrendLine {
  readonly color: string;
  readonly dash: string;
  readonly marker: string;
}

/** Sizes of all charts and the borders around their frames, in pixels. */
export interface Geometry {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
  readonly rowBrackets: boolean;
  readonly columnBrackets: boolean;
  readonly width: number;
  readonly height: number;
  readonly trend: number;
  readonly aside: number;
  readonly history: { readonly width: number; readonly height: number };
}

export interface SurfaceHandlers {
  tap(cell: Cell, shift: boolean): void;
  hover(cell: Cell | null): void;
  zoomed(): void;
}

/** BokehJS, or a plain canvas until BokehJS has loaded. */
export interface Surface {
  setImage(image: Float32Array, rows: number, cols: number): void;
  setBoxes(kind: BoxKind, boxes: Box): void;
  setMarker(name: "focus" | "hover" | "pins", cells: readonly Cell[]): void;
  setMarks(marks: Marks, hasNumbers: boolean): void;
  setTicks(rows: TicksOf, columns: TicksOf): void;
  setColors(palette: readonly string[], low: number, high: number): void;
  setGeometry(geometry: Geometry): void;
  setTheme(theme: Theme): void;
  destroy(): void;
}
