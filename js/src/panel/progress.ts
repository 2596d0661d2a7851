/** The progress line with its bar: how far the run is, and the means of the map. */

import type { Frame } from "../protocol.ts";
import type { LayerChoice } from "../state/choice.ts";
import type { Comparison } from "../state/comparison.ts";
import type { Frames } from "../state/frames.ts";
import type { Run } from "../state/run.ts";
import { h, set, setText } from "../ui/dom.ts";
import { clock, count, plural, value } from "../ui/format.ts";

const LINE_HELP =
  "elapsed < remaining, mean of the map, mean of layers of equal number, " +
  "largest standard error";

interface ProgressSource {
  readonly comparison: Comparison;
  readonly choice: LayerChoice;
  readonly frames: Frames;
  readonly run: Run;
}

export class Progress {
  readonly line = h("p", { class: "cka-progress-line" });
  readonly bar: HTMLElement;
  private readonly fill = h("div", { class: "cka-bar-fill" });
  private readonly source: ProgressSource;

  constructor(source: ProgressSource) {
    this.source = source;
    this.bar = h(
      "div",
      {
        class: "cka-bar",
        role: "progressbar",
        "aria-label": "Batches",
        "aria-valuemin": 0,
      },
      this.fill,
    );
  }

  update(): void {
    const { frames, comparison } = this.source;
    const frame = frames.shown?.frame ?? null;
    const words = frame ? progressWords(frame, comparison.isSelf) : this.waitingWords();
    setText(this.line, words);
    set(this.line, { title: frame && LINE_HELP });
    this.drawBar(frame);
  }

  private drawBar(frame: Frame | null): void {
    const share = frame?.total ? frame.batch / frame.total : null;
    this.fill.style.width = share === null ? "0" : `${100 * Math.min(1, share)}%`;
    set(this.bar, {
      hidden: frame !== null && share === null ? true : undefined,
      "aria-valuemax": frame?.total,
      "aria-valuenow": share === null ? undefined : frame?.batch,
    });
  }

  private waitingWords(): string {
    const { run, choice, comparison } = this.source;
    const [rows, columns] = choice.layers;
    const { loader } = comparison.meta;
    const work = `${rows.length} \u00d7 ${columns.length} layers${loader && ` over ${loader}`}`;
    const { estimate } = run;
    if (run.status !== "running")
      return [work, estimate].filter(Boolean).join(" \u00b7 ");
    return `${work} \u00b7 ${estimate ? `${estimate}: starting` : "first batch\u2026"}`;
  }
}

/** "37/157 batches · 4 736 examples · 1 210 examples/s · 00:31 < 01:38 · mean 0.614 · …" */
export function progressWords(frame: Frame, isSelf = false): string {
  const { batch, total, examples, skipped, rate, gpu, maxStderr } = frame;
  const of = total === null ? "" : `${count(batch)}/`;
  const parts = [
    of + plural(total ?? batch, "batch", "batches"),
    plural(examples, "example"),
    skipped > 0 && `${count(skipped)} skipped`,
    rate > 0 && !frame.final && `${count(rate)} examples/s`,
    timeWords(frame),
    gpu && gpuWords(gpu),
    ...meanWords(frame, isSelf),
    maxStderr !== null && `largest \u00b1\u202f${maxStderr.toFixed(3)}`,
  ];
  return parts.filter(Boolean).join(" \u00b7 ");
}

/** "00:31 < 01:38": elapsed, then what is left of a run whose length is known. */
function timeWords({ batch, total, seconds, final }: Frame): string {
  const left = total !== null && batch > 0 ? ((total - batch) * seconds) / batch : 0;
  return clock(seconds) + (left > 0 && !final ? ` < ${clock(left)}` : "");
}

/** "mean 0.614" of the map and, where layers face each other, of its diagonal. */
function meanWords({ matrix, rows, cols }: Frame, isSelf: boolean): string[] {
  const means: [string, number][] = [["mean", mean(matrix, 1)]];
  if (rows === cols && !isSelf) means.push(["diagonal", mean(matrix, cols + 1)]);
  return means.flatMap(([name, of]) =>
    Number.isNaN(of) ? [] : [`${name} ${value(of)}`],
  );
}

/** Mean of every step-th value, undefined ones left out; NaN if none is defined. */
function mean(values: Float32Array, step: number): number {
  let [sum, known] = [0, 0];
  for (let k = 0; k < values.length; k += step) {
    const number = values[k] as number;
    if (Number.isNaN(number)) continue;
    sum += number;
    known += 1;
  }
  return sum / known;
}

/** "GPU 3.1/80 GB", in units of 2^30 bytes, by which cards are named. */
function gpuWords([used, total]: readonly [number, number]): string {
  const gigabytes = (bytes: number) => (bytes / 2 ** 30).toFixed(1).replace(/\.0$/, "");
  return `GPU ${gigabytes(used)}/${Math.round(total / 2 ** 30)} GB`;
}
