/** Numbers and names as text. */

const THIN_SPACE = "\u202f";
const MINUS = "\u2212";

/** 4736 as "4 736", with a no-break space. */
export function count(value: number): string {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, THIN_SPACE);
}

/** 36928 as "36.9k": enough digits to compare sizes. */
export function short(value: number): string {
  if (value < 1000) return String(value);
  const units = ["k", "M", "G", "T"];
  let scaled = value;
  let unit = -1;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit += 1;
  }
  const digits = scaled < 9.95 ? 2 : scaled < 99.5 ? 1 : 0;
  return `${scaled.toFixed(digits)}${units[unit]}`;
}

/** 802816 as "803 kB". */
export function bytes(value: number): string {
  return short(value).replace(/[kMGT]?$/, (unit) => `${THIN_SPACE}${unit}B`);
}

/** A share of a whole as "0.7 %". */
export function percent(part: number, whole: number): string {
  const share = (100 * part) / whole;
  const text = share >= 9.95 ? share.toFixed(0) : share.toFixed(1);
  return `${share > 0 && share < 0.05 ? "<0.1" : text}${THIN_SPACE}%`;
}

/** Digits that a step between values leaves meaningful: from 1 to `most`. */
export function digitsOf(step: number, most: number): number {
  if (!(step > 0)) return most;
  return Math.max(1, Math.min(most, Math.floor(-Math.log10(step))));
}

/** A value of the map; a dash if it is undefined. */
export function value(number: number, digits = 3): string {
  if (!Number.isFinite(number)) return "\u2013";
  const text = Math.abs(number).toFixed(digits);
  return number < 0 && Number(text) !== 0 ? MINUS + text : text;
}

export function plusMinus(stderr: number | null, digits = 3): string {
  return stderr !== null && Number.isFinite(stderr)
    ? `\u00b1${THIN_SPACE}${stderr.toFixed(digits)}`
    : "";
}

/** Seconds as "00:31" or "1:02:03". */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (n: number) => String(n).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const tail = `${two(minutes)}:${two(whole % 60)}`;
  return hours > 0 ? `${hours}:${tail}` : tail;
}

export function shape(sizes: readonly (number | null)[] | null): string {
  if (!sizes) return "";
  const known = sizes.filter((size, axis) => axis > 0 || size !== null);
  return known.map((size) => size ?? "?").join("\u00d7");
}

export function plural(number: number, word: string, many = `${word}s`): string {
  return `${count(number)} ${number === 1 ? word : many}`;
}

const FIRST_NAMES = 3;

/** The first of many names: "a, b, c and 9 more". */
export function some(names: readonly string[]): string {
  const rest = names.length - FIRST_NAMES;
  const first = (rest === 1 ? names : names.slice(0, FIRST_NAMES)).join(", ");
  return rest > 1 ? `${first} and ${count(rest)} more` : first;
}

/** The root of a model has no name; its class stands for it. */
export function layerName(name: string, rootType: string): string {
  return name === "" ? rootType || "(model)" : name;
}

/** What an error says, whatever was thrown. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
