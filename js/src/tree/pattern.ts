/**
 * Regular expressions for the search, in a bounded number of steps.
 *
 * JavaScript's own try one way after the other, which for `/(a+)+b/` doubles with every
 * letter and would freeze the page. Here all ways are followed at once: a part of a
 * pattern leads from a set of places in the text to the set of places where it may end.
 */

type Places = ReadonlySet<number>;
type Part = (text: Text, from: Places) => Places;

/** Far more than a sensible pattern needs for all layers of a large model. */
const MOST_STEPS = 5_000_000;

/** Steps left for all texts together. */
interface Budget {
  steps: number;
}

interface Text {
  readonly text: string;
  readonly budget: Budget;
}

export class TooManySteps extends Error {}
export class NotSupported extends Error {}

/** A function that tells whether a text contains a match, within a number of steps in all. */
export function searcher(
  source: string,
  flags: string,
  steps = MOST_STEPS,
): (text: string) => boolean {
  new RegExp(source, flags); // Throws a SyntaxError for what is no pattern.
  const part = new Parser(source, flags).parsed();
  const budget = { steps };
  return (text) => part({ text, budget }, everywhere(text)).size > 0;
}

function everywhere(text: string): Places {
  return new Set(Array.from({ length: text.length + 1 }, (_, k) => k));
}

/** One character, matched by a one-character pattern of JavaScript. */
function character(source: string, flags: string): Part {
  const pattern = new RegExp(`^(?:${source})$`, flags);
  const known = new Map<string, boolean>();
  const fits = (letter: string) => {
    const fit = known.get(letter) ?? pattern.test(letter);
    known.set(letter, fit);
    return fit;
  };
  return ({ text, budget }, from) => {
    budget.steps -= from.size + 1;
    if (budget.steps < 0) throw new TooManySteps();
    const ends = new Set<number>();
    for (const at of from)
      if (at < text.length && fits(text.charAt(at))) ends.add(at + 1);
    return ends;
  };
}

/** What holds at a place without taking a character. */
function assertion(holds: (text: string, at: number) => boolean): Part {
  return ({ text }, from) => new Set([...from].filter((at) => holds(text, at)));
}

function isBoundary(text: string, at: number): boolean {
  const isWord = (k: number) => /\w/.test(text.charAt(k));
  return isWord(at - 1) !== isWord(at);
}

const START = assertion((_, at) => at === 0);
const END = assertion((text, at) => at === text.length);
const BOUNDARY = assertion(isBoundary);
const NO_BOUNDARY = assertion((text, at) => !isBoundary(text, at));

function sequence(parts: readonly Part[]): Part {
  return (text, from) => parts.reduce((places, part) => part(text, places), from);
}

function choice(parts: readonly Part[]): Part {
  if (parts.length === 1) return parts[0] as Part;
  return (text, from) => new Set(parts.flatMap((part) => [...part(text, from)]));
}

/** Ends as soon as a round finds no new place, so the numbers may be of any size. */
function repeated(part: Part, least: number, most: number): Part {
  return (text, from) => {
    let places = from;
    for (let k = 0; k < least; k++) {
      const next = part(text, places);
      if (isSame(next, places)) break;
      places = next;
    }
    const found = new Set(places);
    for (let k = least; k < most && places.size > 0; k++) {
      places = new Set([...part(text, places)].filter((at) => !found.has(at)));
      for (const at of places) found.add(at);
    }
    return found;
  };
}

function isSame(one: Places, other: Places): boolean {
  return one.size === other.size && [...one].every((at) => other.has(at));
}

const REPEAT = /(?:([*+?])|\{(\d+)(,?)(\d*)\})\??/y;
const GROUP = /\((?:\?:|\?<\w+>)?(?!\?)/y;
const CLASS = /\[(?:[^\]\\]|\\[\s\S])*\]/y;
const ESCAPE = /\\(?:x[\da-f]{2}|u[\da-f]{4}|c[a-z]|0(?!\d)|[^1-9k])/iy;

class Parser {
  private at = 0;
  private readonly source: string;
  private readonly flags: string;

  constructor(source: string, flags: string) {
    this.source = source;
    this.flags = flags;
  }

  parsed(): Part {
    const options = [this.sequence()];
    while (this.source[this.at] === "|") {
      this.at += 1;
      options.push(this.sequence());
    }
    return choice(options);
  }

  private sequence(): Part {
    const parts: Part[] = [];
    while (this.at < this.source.length && !/[|)]/.test(this.source.charAt(this.at)))
      parts.push(this.repeated(this.single()));
    return sequence(parts);
  }

  private repeated(part: Part): Part {
    const found = this.take(REPEAT);
    if (!found) return part;
    const [, sign, low = "", comma, high] = found;
    if (sign) return repeated(part, sign === "+" ? 1 : 0, sign === "?" ? 1 : Infinity);
    return repeated(part, Number(low), comma ? Number(high || Infinity) : Number(low));
  }

  private single(): Part {
    const letter = this.source.charAt(this.at);
    if (letter === "(") return this.group();
    if (letter === "[") return character(this.need(CLASS), this.flags);
    if (letter === "\\") return this.escaped();
    this.at += 1;
    if (letter === "^") return START;
    if (letter === "$") return END;
    if (letter === ".") return character(".", this.flags);
    return character(letter.replace(/\W/, "\\$&"), this.flags);
  }

  private group(): Part {
    this.need(GROUP);
    const part = this.parsed();
    this.at += 1; // The closing parenthesis.
    return part;
  }

  private escaped(): Part {
    const source = this.need(ESCAPE);
    if (source === "\\b") return BOUNDARY;
    return source === "\\B" ? NO_BOUNDARY : character(source, this.flags);
  }

  /** The next words of the pattern, which are valid but may not be known here. */
  private need(words: RegExp): string {
    const found = this.take(words);
    if (!found) throw new NotSupported();
    return found[0];
  }

  private take(words: RegExp): RegExpExecArray | null {
    words.lastIndex = this.at;
    const found = words.exec(this.source);
    if (found) this.at = words.lastIndex;
    return found;
  }
}
