/** What can be said about a matrix without asking the kernel. Pure functions. */

export type Order = "execution" | "name" | "clustered";
export type Mask = "none" | "upper" | "lower" | "diagonal";

export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly values: Float32Array;
}

export interface Match {
  readonly index: number;
  readonly value: number;
  /** Others that the standard errors do not tell from the best. */
  readonly ties: number;
}

/** Position of each wanted name among those a frame has, -1 for those it has not. */
export function positions(
  wanted: readonly string[],
  have: readonly string[],
): number[] {
  const where = new Map(have.map((name, index) => [name, index]));
  return wanted.map((name) => where.get(name) ?? -1);
}

/** Rows and columns picked in the given order; those at -1 are undefined. */
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

export function isMasked(mask: Mask, row: number, col: number): boolean {
  if (mask === "upper") return col > row;
  if (mask === "lower") return col < row;
  return mask === "diagonal" && col === row;
}

/** Order of the rows in which neighbors resemble each other (average linkage). */
export function clusteredOrder(matrix: Matrix): number[] {
  const n = matrix.rows;
  const distance = distances(matrix);
  let groups = Array.from({ length: n }, (_, k) => ({ id: k, order: [k] }));
  while (groups.length > 1) {
    let best = Number.POSITIVE_INFINITY;
    let pair: [number, number] = [0, 1];
    for (let a = 0; a < groups.length; a++) {
      const row = (groups[a] as { id: number }).id * n;
      for (let b = a + 1; b < groups.length; b++) {
        const gap = distance[row + (groups[b] as { id: number }).id] as number;
        if (gap < best) [best, pair] = [gap, [a, b]];
      }
    }
    groups = joined(groups, pair, distance, n);
  }
  return groups[0]?.order ?? [];
}

interface Group {
  readonly id: number;
  readonly order: number[];
}

function joined(
  groups: Group[],
  [a, b]: [number, number],
  distance: Float64Array,
  n: number,
): Group[] {
  const [first, second] = [groups[a] as Group, groups[b] as Group];
  const [wa, wb] = [first.order.length, second.order.length];
  for (const { id } of groups) {
    const mean =
      (wa * (distance[first.id * n + id] as number) +
        wb * (distance[second.id * n + id] as number)) /
      (wa + wb);
    distance[first.id * n + id] = mean;
    distance[id * n + first.id] = mean;
  }
  const order =
    Math.min(...first.order) <= Math.min(...second.order)
      ? [...first.order, ...second.order]
      : [...second.order, ...first.order];
  return groups
    .map((group, k) => (k === a ? { id: first.id, order } : group))
    .filter((_, k) => k !== b);
}

function distances(matrix: Matrix): Float64Array {
  const { rows, cols, values } = matrix;
  const all = new Float64Array(rows * rows);
  for (let a = 0; a < rows; a++) {
    for (let b = 0; b < a; b++) {
      let sum = 0;
      let terms = 0;
      for (let j = 0; j < cols; j++) {
        const gap = (values[a * cols + j] as number) - (values[b * cols + j] as number);
        if (Number.isNaN(gap)) continue;
        sum += gap * gap;
        terms += 1;
      }
      const gap = terms > 0 ? Math.sqrt(sum / terms) : 2;
      all[a * rows + b] = gap;
      all[b * rows + a] = gap;
    }
  }
  return all;
}
