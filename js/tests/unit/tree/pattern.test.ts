import { expect, test } from "vitest";
import { NotSupported, searcher, TooManySteps } from "../../../src/tree/pattern.ts";

const TEXTS = [
  ...["", "a", "b", "ab", "ba", "aab", "abab", "aaa", "a.b", "A", "Ab", "_", "a b"],
  ...["layer1.0.conv1", "layer12.bn2", "blocks.10.attn.qkv", "act#3", "x{2}", "a\nb"],
  ...["(a|b)*", "[ab]", "a\\b", "\u00e9t\u00e9", "-", "0-9", "aaaaaaaaaa"],
];

const PATTERNS = [
  ...["", "a", "ab", "^a", "b$", "^$", "^a$", ".", "a.b", "a|b", "a|", "^(a|b)+$"],
  ...["a*", "a+b", "a?b", "(ab)*", "(a+)+b", "(?:ab){2}", "a{2}", "a{2,}", "a{1,2}$"],
  ...["^a{0}$", "a{0,1}b", "(a*)*", "(a?){3}b", "(a|ab)(b|ba)$", "((a|b)?c?)*$"],
  ...["[ab]", "[^ab]", "[a-c.]+", "[]", "[^]", "[\\]]", "[\\w-]", "[\\d.]+$", "[|)(]"],
  ...["\\d", "\\D", "\\w+", "\\W", "\\s", "\\S$", "\\.", "\\bconv", "\\Bb", "v1\\b"],
  ...["\\x61", "\\u0062", "\\(", "\\|", "\\[", "\\\\", "\\{2\\}", "x{", "x{2}", "{"],
  ...["layer\\d+\\.\\d+", "(?<n>b)n", "a+?b", "a*?$", "a{1,2}?b", "(a|b)*\\.", "\\n"],
  ...["^(?:layer|blocks)\\.?\\d", "(^a|b$)", "a^b", "a$b", "(|a)b", "\\0", "-", "#"],
];

test.each(["", "i"])("matches are those of JavaScript, with flags '%s'", (flags) => {
  const differing = PATTERNS.flatMap((source) => {
    const [own, native] = [searcher(source, flags), new RegExp(source, flags)];
    return TEXTS.filter((text) => own(text) !== native.test(text)).map(
      (text) => `/${source}/ on ${JSON.stringify(text)}`,
    );
  });
  expect(differing).toEqual([]);
});

/** Each would take JavaScript's own expressions longer than anybody waits. */
const EXPLODING = [
  ...[
    "(a+)+b",
    "(a|a)*b",
    "(a*)*b",
    "(.*a){12}b",
    "^(([a-z])+.)+[A-Z]$",
    "(a?){30}a{30}b",
  ],
  ...[
    `${"a?".repeat(30)}${"a".repeat(30)}b`,
    ".*.*.*.*.*.*.*.*b",
    "((a{1,20}){1,20}){1,20}b",
  ],
  ...["(a{0,99999}){99999}b", "((((((a+)+)+)+)+)+)+b"],
];

test.each(EXPLODING)("/%s/ ends", (source) => {
  const isMatch = searcher(source, "");
  expect(isMatch("a".repeat(60))).toBe(false);
  expect(isMatch(`${"a".repeat(60)}bX`)).toBe(true);
});

test("what takes too many steps for all texts together is refused", () => {
  const isMatch = searcher("((a+)+)+b", "", 5000);
  const texts = Array.from({ length: 100 }, () => "a".repeat(30));
  expect(isMatch(texts[0] ?? "")).toBe(false);
  expect(() => texts.map(isMatch)).toThrow(TooManySteps);
});

test.each(["(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(a)\\1", "(?<n>a)\\k<n>"])(
  "/%s/ is not supported",
  (source) => expect(() => searcher(source, "")).toThrow(NotSupported),
);

test("what is no pattern is a syntax error", () => {
  expect(() => searcher("(", "")).toThrow(SyntaxError);
});
