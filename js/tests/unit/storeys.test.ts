/** The storeys of the page: imports only ever point down. */

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { expect, test } from "vitest";

/** From the top; rooms of one storey do not know each other. */
const STOREYS = [
  ["index"],
  ["view"],
  ["panel", "tree"],
  ["drawing"],
  ["map"],
  ["state"],
  ["ui", "matrix", "loader"],
  ["protocol", "once"],
];
/** Of the protocol these may know types only. */
const TYPES_ONLY = ["ui", "matrix"];

interface Import {
  readonly from: string;
  readonly to: string;
  readonly isType: boolean;
}

/** "map/words.ts" is in the room "map", "view.ts" a room of its own. */
function roomOf(path: string): string {
  return path.split("/")[0]?.replace(/\.ts$/, "") ?? "";
}

function importsOf(file: string): Import[] {
  const text = readFileSync(join("src", file), "utf-8");
  const found = text.matchAll(/^import (type )?[^"]*"(\.[^"]+)";/gm);
  return [...found].map(([, type, path = ""]) => ({
    from: file,
    to: normalize(join(dirname(file), path)),
    isType: type !== undefined,
  }));
}

const imports = readdirSync("src", { recursive: true, encoding: "utf-8" })
  .filter((file) => file.endsWith(".ts"))
  .flatMap(importsOf);

test("each file of the page is in a room that has a storey", () => {
  const rooms = imports.flatMap(({ from, to }) => [roomOf(from), roomOf(to)]);
  expect(imports.length).toBeGreaterThan(100);
  expect([...new Set(rooms)].sort()).toEqual(STOREYS.flat().sort());
});

test("no import points up, or across to another room of the same storey", () => {
  const storeyOf = (path: string) =>
    STOREYS.findIndex((rooms) => rooms.includes(roomOf(path)));
  const wrong = imports.filter(
    ({ from, to }) => roomOf(from) !== roomOf(to) && storeyOf(to) <= storeyOf(from),
  );
  expect(wrong).toEqual([]);
});

test("elements and matrices know nothing of the protocol but its types", () => {
  const values = imports.filter(
    ({ from, to, isType }) =>
      TYPES_ONLY.includes(roomOf(from)) && roomOf(to) !== roomOf(from) && !isType,
  );
  expect(values).toEqual([]);
});
