import { expect, test } from "vitest";
import globs from "../../../../tests/globs.json";
import { globPattern, matches } from "../../../src/tree/query.ts";
import { columnsFrom, resnetColumns } from "../../fake.ts";

const columns = resnetColumns();
const found = (query: string) => {
  const flags = matches(query, columns);
  return columns.name.filter((_, row) => flags?.[row]);
};

test("text, globs, regular expressions, types and depths are understood", () => {
  expect(found("layer1.0.conv")).toEqual(["layer1.0.conv1", "layer1.0.conv2"]);
  expect(found("layer?.0")).toHaveLength(4);
  expect(found("layer1.*")).toHaveLength(12);
  expect(found("layer1.* depth:2")).toEqual(["layer1.0", "layer1.1"]);
  expect(found("layer[23].0")).toEqual(["layer2.0", "layer3.0"]);
  expect(found("/bn\\d$/")).toHaveLength(17);
  expect(found("type:BasicBlock")).toHaveLength(8);
  expect(found("type:basic*")).toHaveLength(8);
  expect(found("depth:1 type:Conv2d")).toEqual(["conv1"]);
  expect(found("depth:<=1")).toHaveLength(12);
  expect(matches("  ", columns)).toBeNull();
});

test.each(globs)("the glob $glob means what it means in Python", (example) => {
  const isMatch = globPattern(example.glob, "");
  expect(example.takes.filter((name) => !isMatch(name))).toEqual([]);
  expect(example.leaves.filter(isMatch)).toEqual([]);
});

test("a name with brackets is found by itself", () => {
  const odd = columnsFrom([{ name: "odd[1]", type: "Linear" }], {});
  expect([...(matches("odd[1]", odd) ?? [])]).toEqual([1]);
  expect([...(matches("dd[", odd) ?? [])]).toEqual([1]);
  expect(() => matches("odd[z-a]", odd)).toThrow("odd[z-a] is not a valid");
});

test("an invalid query is answered with an error", () => {
  expect(() => matches("/(/", columns)).toThrow(
    "/(/ is not a valid regular expression",
  );
  expect(() => matches("/(?=l)/", columns)).toThrow(
    "/(?=l)/ looks around or refers back",
  );
  expect(() => matches("depth:deep", columns)).toThrow('"depth:deep" needs a number');
});
