/**
 * The search box: text, glob, /regex/, type:Linear, depth:2; all words must match.
 *
 * A glob means here what it means to `model1_layers=` in Python.
 */

import type { TreeColumns } from "../protocol.ts";
import { NotSupported, searcher, TooManySteps } from "./pattern.ts";

type Test = (row: number) => boolean;

const IS_GLOB = /[*?]|\[.+\]/;

/** Which rows match; null for an empty query. Throws an error to show for a bad one. */
export function matches(query: string, columns: TreeColumns): Uint8Array | null {
  const words = query.trim().split(/\s+/).filter(Boolean);
  if (words.length === 0) return null;
  const tests = words.map((word) => testOf(word, columns));
  return Uint8Array.from(columns.name, (_, row) =>
    tests.every((test) => test(row)) ? 1 : 0,
  );
}

function testOf(word: string, columns: TreeColumns): Test {
  const { name, type, depth } = columns;
  const [, key, rest = ""] = /^(type|depth):(.*)$/i.exec(word) ?? [];
  if (key?.toLowerCase() === "depth") return depthTest(rest, depth);
  if (key) return typeTest(rest, type);
  const [, source, flags = ""] = /^\/(.+)\/(i?)$/.exec(word) ?? [];
  if (source !== undefined) {
    const isMatch = compiled(source, flags);
    return (row) => isMatch(name[row] ?? "");
  }
  if (IS_GLOB.test(word)) {
    const isMatch = globPattern(word, "");
    return (row) => name[row] === word || isMatch(name[row] ?? "");
  }
  const text = word.toLowerCase();
  return (row) =>
    (name[row] ?? "").toLowerCase().includes(text) ||
    (type[row] ?? "").toLowerCase().includes(text);
}

function typeTest(text: string, type: readonly string[]): Test {
  const isMatch = globPattern(text, "i");
  const name = text.toLowerCase();
  return (row) =>
    isMatch(type[row] ?? "") ||
    (!IS_GLOB.test(text) && (type[row] ?? "").toLowerCase() === name);
}

function depthTest(text: string, depth: readonly number[]): Test {
  const [, sign = "", digits] = /^(<=?|>=?)?(\d+)$/.exec(text) ?? [];
  if (digits === undefined) {
    throw new Error(
      `"depth:${text}" needs a number, for instance depth:2 or depth:<=3.`,
    );
  }
  const wanted = Number(digits);
  const tests: Record<string, (d: number) => boolean> = {
    "": (d) => d === wanted,
    "<": (d) => d < wanted,
    "<=": (d) => d <= wanted,
    ">": (d) => d > wanted,
    ">=": (d) => d >= wanted,
  };
  return (row) => tests[sign]?.(depth[row] ?? 0) ?? false;
}

/** Like Python's fnmatch: `*` is any text, with dots, `?` one character, `[0-3]` a set. */
export function globPattern(glob: string, flags: string): (text: string) => boolean {
  const source = glob.replace(
    /\[(!?)(\]?[^\]]*)\]|[\s\S]/g,
    (part, not: string | undefined, set: string | undefined) => {
      if (set) return `[${not ? "^" : ""}${set.replace(/[\\\][^]/g, "\\$&")}]`;
      if (part === "*") return "[^]*";
      return part === "?" ? "[^]" : part.replace(/[^\w\s#-]/g, "\\$&");
    },
  );
  return compiled(`^${source}$`, flags, glob);
}

/** A test of texts, whose errors say what is wrong with the pattern that is shown. */
function compiled(
  source: string,
  flags: string,
  shown = `/${source}/`,
): (text: string) => boolean {
  const explained = <T>(work: () => T): T => {
    try {
      return work();
    } catch (error) {
      throw new Error(`${shown} ${faultOf(error)}.`);
    }
  };
  const isMatch = explained(() => searcher(source, flags));
  return (text) => explained(() => isMatch(text));
}

function faultOf(error: unknown): string {
  if (error instanceof TooManySteps) return "takes too many steps";
  if (error instanceof NotSupported)
    return "looks around or refers back, which the search does not support";
  return "is not a valid regular expression";
}
