/** Tick labels: short, as many as fit, and at least one. */

export const MAX_CHARACTERS = 28;
export const PIXELS_PER_LABEL = 14;

/** The dotted prefix that all names share; it adds nothing on an axis. */
export function commonPrefix(names: readonly string[]): string {
  if (names.length < 2) return "";
  const [first = ""] = names;
  const parts = first.split(".").slice(0, -1);
  while (parts.length > 0) {
    const prefix = `${parts.join(".")}.`;
    if (names.every((name) => name.startsWith(prefix) && name.length > prefix.length)) {
      return prefix;
    }
    parts.pop();
  }
  return "";
}

/** The longest dotted prefix that more than half of the names share, or "". */
export function usualPrefix(names: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const name of names) {
    for (let dot = name.indexOf("."); dot >= 0; dot = name.indexOf(".", dot + 1)) {
      const prefix = name.slice(0, dot + 1);
      counts.set(prefix, (counts.get(prefix) ?? 0) + 1);
    }
  }
  const usual = [...counts].filter(([, count]) => 2 * count > names.length);
  return usual.reduce((most, [own]) => (own.length > most.length ? own : most), "");
}

/** Shortens a long name: first the usual prefix goes, then the middle. */
export function shortLabel(name: string, usual: string, limit: number): string {
  if (name.length <= limit || !usual || !name.startsWith(usual)) {
    return ellipsis(name, limit);
  }
  return ellipsis(`\u2026${name.slice(usual.length)}`, limit);
}

/** Shortened in the middle: both ends of a name tell layers apart. */
export function ellipsis(name: string, limit = MAX_CHARACTERS): string {
  if (name.length <= limit) return name;
  const head = Math.ceil((limit - 1) / 2);
  return `${name.slice(0, head)}\u2026${name.slice(name.length - (limit - 1 - head))}`;
}

export interface Ticks {
  readonly ticks: number[];
  readonly labels: Map<number, string>;
}

/** The ticks between two ends of an axis with a length in pixels. */
export type TicksOf = (from: number, to: number, pixels: number) => Ticks;

const DEPTH_STEPS = [1, 2, 5, 10, 25, 50];
const PIXELS_PER_DEPTH = 32;

/**
 * Ticks at even shares of a model's depth, as many as fit. Of n layers the i-th spans
 * i / n to (i + 1) / n, so that an axis spans the whole depth for any n.
 */
export function depthTicks(
  size: number,
  isFlipped: boolean,
  [from, to, pixels]: readonly [number, number, number],
): Ticks {
  const [low, high] = [Math.min(from, to), Math.max(from, to)];
  const perCent = (size * pixels) / (100 * Math.max(1e-9, high - low));
  const step = DEPTH_STEPS.find((each) => each * perCent >= PIXELS_PER_DEPTH) ?? 100;
  const named = new Map<number, string>();
  for (let share = 0; share <= 100; share += step) {
    const at = (size * (isFlipped ? 100 - share : share)) / 100;
    if (at >= low && at <= high) named.set(at, `${share}\u202f%`);
  }
  return { ticks: [...named.keys()], labels: named };
}

/** Ticks at cell centers between two ends of an axis, as many as fit. */
export function ticksFor(
  labels: readonly string[],
  from: number,
  to: number,
  pixels: number,
): Ticks {
  const low = Math.max(0, Math.floor(Math.min(from, to)));
  const high = Math.min(labels.length, Math.ceil(Math.max(from, to)));
  const perCell = pixels / Math.max(1e-9, Math.abs(to - from));
  const stride = Math.max(1, Math.ceil(PIXELS_PER_LABEL / Math.max(1e-9, perCell)));
  const ticks: number[] = [];
  const named = new Map<number, string>();
  for (let index = low - (low % stride); index < high; index += stride) {
    if (index < low) continue;
    ticks.push(index + 0.5);
    named.set(index + 0.5, labels[index] ?? "");
  }
  if (ticks.length === 0 && high > low) {
    ticks.push(low + 0.5);
    named.set(low + 0.5, labels[low] ?? "");
  }
  return { ticks, labels: named };
}
