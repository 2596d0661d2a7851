/** A real mouse: what happens on the page while its button is down. */

import { afterEach, expect, test } from "vitest";
import { commands } from "vitest/browser";
import {
  columnsFrom,
  presetNames,
  resnetColumns,
  vitColumns,
  wireTree,
} from "../fake.ts";
import {
  acks,
  click,
  closeAll,
  feed,
  live,
  makeModel,
  type Page,
  pause,
  ready,
  show,
  text,
  until,
} from "./page.ts";

afterEach(async () => {
  await commands.release();
  closeAll();
});

/** A layer of the first model, or a part of its row. */
function row(page: Page, name: string, part = ""): HTMLElement {
  const selector = `[role=treeitem][aria-label^='${name},'] ${part}`.trim();
  return page.element.querySelector(selector) as HTMLElement;
}

function button(page: Page, label: string): HTMLElement {
  const all = [...page.element.querySelectorAll<HTMLElement>("button")];
  const found = all.find(
    (each) => (each.getAttribute("aria-label") ?? each.textContent) === label,
  );
  if (!found) throw new Error(`no button ${label}`);
  return found;
}

/** Presses on an element, lets something happen meanwhile, and lets go. */
async function clickWhile(
  target: HTMLElement,
  happens: () => Promise<void> | void = () => {},
): Promise<void> {
  target.scrollIntoView({ block: "nearest" });
  const box = target.getBoundingClientRect();
  await commands.press({ x: box.x + box.width / 2, y: box.y + box.height / 2 });
  await happens();
  await commands.release();
}

const chosen = (page: Page) => page.model.sentOf("layers").at(-1)?.layers1 as string[];

async function nextFrame(page: Page): Promise<void> {
  const seq = Number(acks(page).at(-1)?.seq ?? 0) + 1;
  feed(page, { seq });
  await until(() => acks(page).at(-1)?.seq === seq, "the frame");
}

test("the first click on a box counts, wherever the focus was", async () => {
  const page = await ready();
  await live(page);
  button(page, "Pause").focus();
  await clickWhile(row(page, "bn1", ".cka-box"));
  expect(chosen(page)).toContain("bn1");
});

test("the first click on a triangle counts, and so does the next in the other tree", async () => {
  const page = await ready();
  await live(page);
  button(page, "Pause").focus();
  await clickWhile(row(page, "layer1", ".cka-twist"));
  expect(row(page, "layer1").getAttribute("aria-expanded")).toBe("false");
  await clickWhile(row(page, "patch_embed", ".cka-box"));
  expect(page.model.sentOf("layers").at(-1)?.layers2).not.toContain("patch_embed");
});

test("a click on a row counts while the kernel sends other trees and layers", async () => {
  const page = await ready();
  const more = [...resnetColumns(3).name];
  await clickWhile(row(page, "bn1", ".cka-name"), async () => {
    const trees = {
      model1: wireTree(resnetColumns(3)),
      model2: wireTree(vitColumns()),
    };
    page.model.put({ _trees: trees, layers1: more.slice(1, 3), _estimate: "2 s" });
    await pause(50);
  });
  const isNew = () => page.element.textContent?.includes("[0\u20132]");
  await until(isNew, "the new tree");
  expect(chosen(page)).toContain("bn1");
});

test.each(["All", "Conv2d", "Invert the choice"])(
  "a click on %s counts while the kernel echoes a choice",
  async (label) => {
    const page = await ready();
    const target = [...page.element.querySelectorAll<HTMLElement>("button")].find(
      (each) => (each.ariaLabel ?? each.textContent)?.startsWith(label),
    ) as HTMLElement;
    await clickWhile(target, async () => {
      page.model.put({ layers1: ["conv1"] });
      await pause(50);
    });
    expect(page.model.sentOf("layers")).toHaveLength(1);
    expect(chosen(page)?.length).toBeGreaterThan(1);
  },
);

test("a pinned cell is unpinned by a click during which frames arrive", async () => {
  const page = await ready();
  await live(page);
  click(page, 2, 3, { shiftKey: true });
  await until(() => text(page, ".cka-pins"), "the pinned cell");
  await clickWhile(button(page, "Unpin layer1.1 by blocks.2"), async () => {
    await nextFrame(page);
    await nextFrame(page);
  });
  expect(text(page, ".cka-pins")).toBe("");
});

test("so is it by the Space bar", async () => {
  const page = await ready();
  await live(page);
  click(page, 2, 3, { shiftKey: true });
  await until(() => text(page, ".cka-pins"), "the pinned cell");
  button(page, "Unpin layer1.1 by blocks.2").focus();
  await commands.keyDown("Space");
  await nextFrame(page);
  await commands.keyUp("Space");
  expect(text(page, ".cka-pins")).toBe("");
});

test("a click on a button does what it said when it was pressed", async () => {
  const page = await ready();
  await live(page);
  await clickWhile(button(page, "Stop"), async () => {
    page.model.put({ status: "done" });
    await pause(50);
  });
  expect(page.model.sentOf("command")).toEqual([{ kind: "command", name: "stop" }]);
  await until(() => text(page, ".cka-badge") === "Done", "the end of the run");
});

test("nothing moves under the mouse before its button is let go", async () => {
  const page = await ready();
  await live(page);
  const axes = page.model.state._axes as object;
  const top = () => row(page, "maxpool").getBoundingClientRect().top;
  const before = top();
  await clickWhile(row(page, "maxpool", ".cka-box"), async () => {
    page.model.put({
      _message: { kind: "note", text: "A note above the trees." },
      _axes: { ...axes, notes: ["And another."] },
    });
    await nextFrame(page);
    expect(top()).toBe(before);
  });
  expect(chosen(page)).toContain("maxpool");
  await until(() => text(page, ".cka-message").includes("A note"), "the note");
  expect(top()).toBeGreaterThan(before);
});

test("a wrong number that is left by a click on a row is said after the click", async () => {
  const page = await ready();
  await live(page);
  const field = page.element.querySelector<HTMLInputElement>(".cka-field input");
  field?.focus();
  await commands.keyDown("0");
  await commands.keyUp("0");
  await clickWhile(row(page, "bn1", ".cka-box"), () => pause(50));
  expect(chosen(page)).toContain("bn1");
  await until(() => text(page, ".cka-message").includes("above 0"), "the error");
});

test("who holds the button for long, as in a drag, sees the run go on", async () => {
  const page = await ready();
  await live(page);
  await clickWhile(row(page, "bn1", ".cka-name"), async () => {
    await nextFrame(page);
    const shown = `${acks(page).at(-1)?.seq}/157`;
    await until(() => text(page, ".cka-progress-line").startsWith(shown), "the frame");
  });
  expect(chosen(page)).toContain("bn1");
});

test("a click on the map counts while the plots take the place of the sketch", async () => {
  (await ready()).close();
  const letIn = holdBokeh();
  const page = show(makeModel());
  feed(page, { seq: 1 });
  const sketch = () => page.element.querySelector(".cka-sketch") as HTMLElement;
  await until(() => sketch().clientWidth > 100 && acks(page).length > 0, "the sketch");
  await clickWhile(sketch(), async () => {
    letIn();
    for (let k = 0; k < 25 && sketch(); k++) await pause(20);
  });
  await until(() => text(page, ".cka-row-caption").includes("against"), "the focus");
  expect(page.element.querySelector(".cka-clear")).toHaveProperty("hidden", false);
});

/** Keeps BokehJS, which the page has, from explorers until it is let in. */
function holdBokeh(): () => void {
  const page = globalThis as { [loaded: symbol]: Map<string, Promise<unknown>> };
  const loaded = page[Symbol.for("cka_notebook.bokehjs")];
  const [[version, bokeh] = []] = loaded ?? [];
  let letIn = () => {};
  const gate = new Promise<void>((resolve) => {
    letIn = resolve;
  });
  if (version)
    loaded?.set(
      version,
      gate.then(() => bokeh),
    );
  return letIn;
}

test("rows keep their place while the wheel turns under the button", async () => {
  const rows = Array.from({ length: 60 }, (_, k) => {
    return {
      name: `layer_${String.fromCharCode(97 + (k % 26))}${k}x`,
      type: `T${k}`,
      shape: [null, 4],
    };
  });
  const columns = columnsFrom([{ name: "", type: "Net", shape: [null, 4] }, ...rows], {
    auto: rows.map(({ name }) => name),
    leaves: rows.map(({ name }) => name),
  });
  const trees = { model1: wireTree(columns), model2: wireTree(vitColumns()) };
  const page = await ready({ _trees: trees, layers1: presetNames(columns) });
  const target = row(page, "layer_f5x", ".cka-box");
  const viewport = target.closest<HTMLElement>(".cka-viewport") as HTMLElement;
  await clickWhile(target, async () => {
    viewport.scrollTop += 4;
    await pause(100);
  });
  expect(chosen(page)).not.toContain("layer_f5x");
});
