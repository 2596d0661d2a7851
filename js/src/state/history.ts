/** How cells converged: matrices at some batches, thinned as they become many. */

import type { Frame, HistoryPart } from "../protocol.ts";

export const MAX_FRAMES = 256;
export const MAX_BYTES = 32 * 2 ** 20;

interface Moment {
  readonly batch: number;
  readonly matrix: Float32Array;
  readonly stderr: Float32Array;
}

export interface Convergence {
  readonly batches: number[];
  readonly values: number[];
  readonly stderrs: number[];
}

export class CellHistory {
  private moments: Moment[] = [];
  private stride = 1;
  private epoch = -1;
  private cells = -1;

  /** Keeps the frame if all its layers have seen its batch and it is far from the last. */
  add(frame: Frame): void {
    this.start(frame.epoch, frame.rows * frame.cols);
    if (frame.catchingUp) return;
    const last = this.moments.at(-1);
    if (last && frame.batch <= last.batch) {
      if (frame.batch === last.batch) this.moments[this.moments.length - 1] = frame;
      return;
    }
    const before = this.moments.at(-2);
    const dense = last && before && last.batch - before.batch < this.stride;
    if (dense) this.moments.pop();
    this.moments.push(frame);
    this.thin();
  }

  /** Adds what the kernel kept; where both have a batch, the page's own wins. */
  merge(part: HistoryPart): void {
    if (part.epoch < this.epoch) return;
    this.start(part.epoch, part.rows * part.cols, part.isReset);
    const own = new Set(this.moments.map((moment) => moment.batch));
    part.batches.forEach((batch, k) => {
      const [matrix, stderr] = [part.matrices[k], part.stderrs[k]];
      if (matrix && stderr && !own.has(batch))
        this.moments.push({ batch, matrix, stderr });
    });
    this.moments.sort((a, b) => a.batch - b.batch);
    this.thin();
  }

  /** The values of one cell, by batch. */
  cell(index: number): Convergence {
    return {
      batches: this.moments.map((moment) => moment.batch),
      values: this.moments.map((moment) => moment.matrix[index] ?? Number.NaN),
      stderrs: this.moments.map((moment) => moment.stderr[index] ?? Number.NaN),
    };
  }

  private start(epoch: number, cells: number, isReset = false): void {
    if (!isReset && epoch === this.epoch && cells === this.cells) return;
    this.moments = [];
    this.stride = 1;
    this.epoch = epoch;
    this.cells = cells;
  }

  /** Drops every second moment except the last, and doubles the stride. */
  private thin(): void {
    const limit = Math.min(
      MAX_FRAMES,
      Math.max(2, Math.floor(MAX_BYTES / Math.max(1, this.cells * 8))),
    );
    while (this.moments.length > limit) {
      const last = this.moments.length - 1;
      this.moments = this.moments.filter((_, k) => k === last || k % 2 === 0);
      const [first, second] = this.moments;
      const gap = first && second ? second.batch - first.batch : 0;
      this.stride = Math.max(2 * this.stride, gap);
    }
  }
}
