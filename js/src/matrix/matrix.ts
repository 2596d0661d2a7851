/** A matrix, its rows and columns, and best matches. Pure functions. */

export type Order = "execution" | "depth" | "name" | "clustered";
export type Mask = "none" | "upper" | "lower" | "diagonal" | "threshold";

export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly values: Float32Array;
}

export interface Match {
  readonly index: number;
  readonly value: number;
  /** How many others are within the standard errors of the best. */
  readonly ties: number;
}

/** Position of each wanted name among those a frame has, or -1. */
export function positions(
  wanted: readonly string[],
  known: readonly string[],
): number[] {
  const where = new Map(known.map((name, index) => [name, index]));
  return wanted.map((name) => where.get(name) ?? -1);
}

/** Rows and columns picked in the given order; -1 picks undefined values. */
export function picked(
  matrix: Matrix,
  rows: readonly number[],
  cols: readonly number[],
): Matrix {
  const all = (index: readonly number[], size: number) =>
    index.length === size && index.every((from, to) => from === to);
  if (all(rows, matrix.rows) && all(cols, matrix.cols)) return matrix;
  const values = new Float32Array(rows.length * cols.length);
  let to = 0;
  for (const row of rows) {
    const from = row * matrix.cols;
    for (const col of cols) {
      values[to++] =
        row < 0 || col < 0 ? Number.NaN : (matrix.values[from + col] as number);
    }
  }
  return { rows: rows.length, cols: cols.length, values };
}

export function transposed(matrix: Matrix): Matrix {
  const { rows, cols, values } = matrix;
  const flipped = new Float32Array(values.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      flipped[j * rows + i] = values[i * cols + j] as number;
    }
  }
  return { rows: cols, cols: rows, values: flipped };
}

export function rowOf(matrix: Matrix, row: number): Float32Array {
  return matrix.values.slice(row * matrix.cols, (row + 1) * matrix.cols);
}

export function columnOf(matrix: Matrix, col: number): Float32Array {
  return Float32Array.from(
    { length: matrix.rows },
    (_, row) => matrix.values[row * matrix.cols + col] ?? Number.NaN,
  );
}

/** 1 for the largest; undefined values have no rank. */
export function rankOf(line: Float32Array, index: number): number | null {
  const own = line[index];
  if (own === undefined || Number.isNaN(own)) return null;
  return 1 + line.filter((value) => value > own).length;
}

export function bestMatch(line: Float32Array, stderr: Float32Array): Match | null {
  let index = -1;
  line.forEach((value, k) => {
    if (!Number.isNaN(value) && (index < 0 || value > (line[index] as number)))
      index = k;
  });
  const value = line[index];
  if (value === undefined) return null;
  const error = stderr[index] || 0;
  const near = (other: number, k: number) =>
    k !== index && value - other <= Math.hypot(error, stderr[k] || 0);
  return { index, value, ties: line.filter(near).length };
}

/** Position of the best match of each row and each column, or -1. */
export function bestMatches(
  { rows, cols, values }: Matrix,
  counts: (row: number, col: number) => boolean,
): { ofRow: number[]; ofColumn: number[] } {
  const ofRow = Array<number>(rows).fill(-1);
  const ofColumn = Array<number>(cols).fill(-1);
  const at = (row: number, col: number) =>
    row < 0 || col < 0
      ? Number.NEGATIVE_INFINITY
      : (values[row * cols + col] as number);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      if (!counts(row, col)) continue;
      if (at(row, col) > at(row, ofRow[row] as number)) ofRow[row] = col;
      if (at(row, col) > at(ofColumn[col] as number, col)) ofColumn[col] = row;
    }
  }
  return { ofRow, ofColumn };
}

/** Smallest and largest defined value, or null if there is none. */
export function extent(values: Float32Array): [number, number] | null {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}

/** Whether a mask by position leaves a cell out. */
export function isMasked(mask: Mask, row: number, col: number): boolean {
  if (mask === "upper") return col > row;
  if (mask === "lower") return col < row;
  return mask === "diagonal" && col === row;
}
