import { beforeEach, expect, test, vi } from "vitest";
import { Tree } from "../../../src/state/tree.ts";
import { LayerTree } from "../../../src/tree/layer_tree.ts";
import { columnsFrom, presetNames, resnetColumns, vitColumns } from "../../fake.ts";

const handlers = { choose: vi.fn(), undo: vi.fn(), mirror: vi.fn() };
let selector: LayerTree;

function show(columns = resnetColumns(), preset = "auto"): void {
  handlers.choose.mockReset();
  selector = new LayerTree("ResNet A", "ResNet B", new Tree(columns), handlers);
  document.body.replaceChildren(selector.element);
  const chosen = presetNames(columns, preset);
  handlers.choose.mockImplementation((names: string[]) =>
    selector.setChosen(names, true),
  );
  selector.setChosen(chosen, false);
}

const viewport = () => selector.element.querySelector("[role=tree]") as HTMLElement;
const rows = () => [
  ...selector.element.querySelectorAll<HTMLElement>("[role=treeitem]"),
];
const rowOf = (label: string) =>
  rows().find((row) => row.getAttribute("aria-label")?.startsWith(`${label},`));
const active = () => {
  const id = viewport().getAttribute("aria-activedescendant") ?? "";
  return (
    selector.element.querySelector(`[id="${id}"]`)?.getAttribute("aria-label") ?? ""
  );
};
const lastChoice = () => handlers.choose.mock.lastCall?.[0] as string[];

function press(key: string, more: KeyboardEventInit = {}): void {
  viewport().dispatchEvent(
    new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }),
  );
}

function search(text: string): void {
  const input = selector.element.querySelector("input") as HTMLInputElement;
  input.value = text;
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

function button(label: string): HTMLButtonElement {
  const all = [...selector.element.querySelectorAll("button")];
  return all.find((element) =>
    element.textContent?.startsWith(label),
  ) as HTMLButtonElement;
}

beforeEach(() => show());

test("rows carry what a screen reader needs", () => {
  const row = rowOf("layer1");
  expect(row?.getAttribute("aria-level")).toBe("2");
  expect(row?.getAttribute("aria-expanded")).toBe("true");
  expect(row?.getAttribute("aria-checked")).toBe("true");
  expect(rowOf("bn1")?.getAttribute("aria-checked")).toBe("false");
  expect(rowOf("conv1")?.getAttribute("aria-label")).toBe(
    "conv1, Conv2d, output 64\u00d7112\u00d7112, 9\u202f408 parameters",
  );
  expect(viewport().getAttribute("aria-multiselectable")).toBe("true");
});

test("a click on a box is one choice of all that is below", () => {
  rowOf("layer1")?.querySelector<HTMLElement>(".cka-box")?.click();
  expect(handlers.choose).toHaveBeenCalledTimes(1);
  expect(lastChoice()).not.toContain("layer1.0");
  expect(lastChoice()).toContain("layer2.0");
  expect(rowOf("layer1")?.getAttribute("aria-checked")).toBe("false");
});

test("Alt-click chooses the module alone", () => {
  rowOf("layer1")?.dispatchEvent(
    new MouseEvent("click", { bubbles: true, altKey: true }),
  );
  expect(lastChoice()).toContain("layer1");
  expect(lastChoice()).toContain("layer1.0");
});

test("Shift-click gives all lines between the state of the first", () => {
  rowOf("bn1")?.click();
  rowOf("maxpool")?.dispatchEvent(
    new MouseEvent("click", { bubbles: true, shiftKey: true }),
  );
  expect(lastChoice().slice(0, 4)).toEqual(["conv1", "bn1", "relu", "maxpool"]);
});

test("a greyed row says why it cannot be chosen, and a click does not choose it", () => {
  const row = [...rows()].find((element) =>
    element.textContent?.includes("never called"),
  );
  expect(row).toBeUndefined();
  press("End");
  press("ArrowUp");
  expect(active()).toBe("dropout, Dropout, never called");
  press(" ");
  expect(handlers.choose).not.toHaveBeenCalled();
});

test("arrow keys move, open and fold as in the ARIA tree pattern", () => {
  expect(active()).toMatch(/^ResNet,/);
  press("ArrowDown");
  expect(active()).toMatch(/^conv1,/);
  for (let k = 0; k < 4; k++) press("ArrowDown");
  expect(active()).toMatch(/^layer1,/);
  press("ArrowRight");
  expect(active()).toMatch(/^layer1\.0,/);
  press("ArrowRight");
  expect(rowOf("layer1.0")?.getAttribute("aria-expanded")).toBe("true");
  press("ArrowLeft");
  expect(rowOf("layer1.0")?.getAttribute("aria-expanded")).toBe("false");
  press("ArrowLeft");
  expect(active()).toMatch(/^layer1,/);
  press("End");
  expect(active()).toMatch(/^fc,/);
  press("Home");
  expect(active()).toMatch(/^ResNet,/);
  press("PageDown");
  expect(active()).not.toMatch(/^ResNet,/);
});

test("Space toggles, * opens all siblings, letters jump", () => {
  press("f");
  expect(active()).toMatch(/^fc,/);
  press(" ");
  expect(lastChoice()).not.toContain("fc");
  const later = vi.spyOn(Date, "now").mockReturnValue(Date.now() + 1000);
  press("Home");
  press("ArrowDown");
  press("l");
  later.mockRestore();
  expect(active()).toMatch(/^layer1,/);
  press("*");
  expect(rowOf("layer4")?.getAttribute("aria-expanded") ?? "true").toBe("true");
  expect(active()).toMatch(/^layer1,/);
});

test("Ctrl+A chooses all matches in one choice", () => {
  search("type:Conv2d");
  handlers.choose.mockClear();
  press("a", { ctrlKey: true });
  expect(handlers.choose).toHaveBeenCalledTimes(1);
  expect(lastChoice().filter((name) => name.includes("conv"))).toHaveLength(17);
});

test("the active row stays in the document when it is scrolled away", () => {
  show(vitColumns(), "all");
  press("Home");
  for (const row of ["blocks", "blocks.[0\u201311]"]) {
    while (!active().startsWith(`${row},`)) press("ArrowDown");
    press("ArrowRight");
  }
  press("*");
  const id = viewport().getAttribute("aria-activedescendant");
  viewport().scrollTop = 100000;
  viewport().dispatchEvent(new Event("scroll"));
  expect(document.getElementById(id as string)).not.toBeNull();
});

test("10 000 modules are drawn as less than 60 rows", () => {
  const many = Array.from({ length: 10000 }, (_, k) => ({
    name: `m${k}x`,
    type: `T${k}`,
  }));
  show(columnsFrom([{ name: "", type: "Net" }, ...many], {}), "none");
  expect(rows().length).toBeLessThan(60);
  expect(rows().length).toBeGreaterThan(10);
  press("End");
  expect(active()).toBe("m9999x, T9999");
  expect(rows().length).toBeLessThan(60);
});

test("presets have counts and show which one is in force", () => {
  expect(button("Auto").textContent).toBe("Auto11");
  expect(button("Auto").getAttribute("aria-pressed")).toBe("true");
  button("Blocks").click();
  expect(lastChoice()).toHaveLength(8);
  expect(button("Blocks").getAttribute("aria-pressed")).toBe("true");
  expect(button("Auto").getAttribute("aria-pressed")).toBe("false");
  button("None").click();
  expect(lastChoice()).toEqual([]);
});

test("a chip toggles all layers of its type and is mixed in between", () => {
  expect(button("Conv2d").getAttribute("aria-pressed")).toBe("mixed");
  button("Conv2d").click();
  expect(lastChoice().filter((name) => /conv\d$/.test(name))).toHaveLength(17);
  expect(button("Conv2d").getAttribute("aria-pressed")).toBe("true");
  button("Conv2d").click();
  expect(lastChoice().some((name) => /conv\d$/.test(name))).toBe(false);
});

test("a chip keeps the keyboard's focus when it is drawn again", () => {
  button("Conv2d").focus();
  button("Conv2d").click();
  expect(document.activeElement?.textContent).toBe(button("Conv2d").textContent);
});

test("a search counts its matches and explains its mistakes", () => {
  const found = () => selector.element.querySelector(".cka-found")?.textContent;
  search("bn1");
  expect(found()).toBe("9");
  search("zebra");
  expect(found()).toBe("nothing");
  expect(selector.element.querySelector(".cka-empty")?.textContent).toBe(
    "No layer matches.",
  );
  search("/(/");
  expect(found()).toContain("not a valid regular expression");
  expect(rows().length).toBeGreaterThan(5);
});

test("names are text, whatever they contain", () => {
  const evil = "<img src=x onerror=alert(1)>";
  show(
    columnsFrom(
      [
        { name: "", type: evil },
        { name: evil, type: evil },
      ],
      {},
    ),
    "none",
  );
  expect(selector.element.querySelector("img")).toBeNull();
  expect(rowOf(evil)?.querySelector(".cka-name")?.textContent).toBe(evil);
});

test("undo and mirror are buttons with a name", () => {
  const undo = selector.element.querySelector<HTMLButtonElement>(
    "[aria-label='Undo the last choice']",
  );
  expect(undo?.disabled).toBe(true);
  selector.setChosen(["conv1"], true);
  expect(undo?.disabled).toBe(false);
  undo?.click();
  expect(handlers.undo).toHaveBeenCalledOnce();
  selector.element
    .querySelector<HTMLElement>("[aria-label='Mirror the choice to ResNet B']")
    ?.click();
  expect(handlers.mirror).toHaveBeenCalledOnce();
});

test("the invert button inverts the choice, or with a filter the matches, in one message", () => {
  const invert = () =>
    selector.element.querySelector<HTMLButtonElement>("[aria-label^='Invert']");
  expect(invert()?.title).toBe(
    "Choose the layers that are not chosen (48) instead of those that are (11)",
  );
  invert()?.click();
  expect(handlers.choose).toHaveBeenCalledTimes(1);
  expect(lastChoice()).toHaveLength(48);
  expect(lastChoice()).not.toContain("conv1");
  invert()?.click();
  expect(lastChoice()).toEqual(presetNames(resnetColumns()));
  search("type:Conv2d");
  expect(invert()?.getAttribute("aria-label")).toBe("Invert the choice of the matches");
  expect(invert()?.title).toMatch(/^Among the matches, .+ \(16\) .+ \(1\)$/);
  invert()?.click();
  expect(lastChoice()).toHaveLength(10 + 16);
  search("zebra");
  expect(invert()?.disabled).toBe(true);
});

const about = () =>
  [...selector.element.querySelectorAll(".cka-about > p")].map((p) => p.textContent);

test("the active line, or the one under the pointer, is described below the tree", () => {
  expect(about()).toEqual([
    "ResNet",
    "11\u202f689\u202f512 parameters \u00b7 float32 on cpu",
    "output 1000 \u00b7 4.00\u202fkB an example \u00b7 1 call",
  ]);
  press("ArrowDown");
  expect(about()[0]).toBe("conv1 Conv2d ");
  expect(about()[1]).toBe("9\u202f408 parameters (0.1\u202f%) \u00b7 float32 on cpu");
  const over = new MouseEvent("mouseover", { bubbles: true });
  rowOf("layer1.0")?.querySelector(".cka-name")?.dispatchEvent(over);
  expect(about()[0]).toBe("layer1.0 BasicBlock ");
  viewport().dispatchEvent(new MouseEvent("mouseleave"));
  expect(about()[0]).toBe("conv1 Conv2d ");
});

test("a row describes what its label does not say", () => {
  expect(rowOf("conv1")?.getAttribute("aria-description")).toBe(
    "0.1\u202f% of the model, float32 on cpu, 3.21\u202fMB an example, 1 call",
  );
});

test("a narrow row keeps its name, then parameters, then its shape", () => {
  const columns = rowOf("conv1")?.querySelector(".cka-columns") as HTMLElement;
  expect([...columns.children].map((child) => child.className)).toEqual([
    "cka-params",
    "cka-shape",
    "cka-type",
  ]);
});

test("an entry of an output keeps the name of its layer", () => {
  const columns = columnsFrom(
    [
      { name: "", type: "Net" },
      { name: "body", type: "Body" },
      { name: "body.rnn", type: "LSTM" },
      { name: "body.rnn:1.0", type: "entry" },
    ],
    { all: ["body.rnn:1.0"] },
  );
  show(columns, "all");
  search("rnn:");
  const shown = rows().map((row) => row.querySelector(".cka-name")?.textContent);
  expect(shown).toContain("rnn:1.0");
});
