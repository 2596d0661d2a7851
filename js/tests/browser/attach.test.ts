/** Front ends render a view before, while, and after it is in the document and visible. */

import { afterEach, expect, test, vi } from "vitest";
import widget from "../../src/index.ts";
import {
  canvasOf,
  click,
  closeAll,
  colorAt,
  drawn,
  feed,
  live,
  makeModel,
  type Page,
  pause,
  ready,
  text,
  until,
} from "./page.ts";

afterEach(() => {
  for (const page of pages.splice(0)) page.close();
  closeAll();
  vi.restoreAllMocks();
});

const pages: Page[] = [];

/** An explorer in an element that is attached later, if ever. */
function detached(): Page {
  const model = makeModel();
  const element = document.createElement("div");
  const closeModel = widget.initialize({ model });
  const closeView = widget.render({ model, el: element });
  const close = () => {
    closeView();
    closeModel();
    element.remove();
  };
  const page = { model, element, close };
  pages.push(page);
  return page;
}

/** The map shows colors, and its labels are those of the theme. */
async function expectLive(page: Page): Promise<void> {
  await drawn(page);
  await live(page);
  expect(text(page, ".cka-waiting")).toBe("");
  expect(colorAt(page, 1, 1).slice(0, 3)).not.toEqual([0, 0, 0]);
  click(page, 1, 1);
  expect(text(page, ".cka-row-caption")).toContain("layer1.0 of ResNet-18");
}

const greyPixels = (page: Page) => {
  const canvas = canvasOf(page.element, "map");
  const context = canvas.getContext("2d");
  const { data } = context?.getImageData(0, 0, canvas.width, canvas.height) ?? {};
  let count = 0;
  for (let k = 0; k < (data?.length ?? 0); k += 4)
    if (data?.[k] === 128 && data[k + 1] === 128 && data[k + 2] === 128) count += 1;
  return count;
};

test.each([0, 20, 150, 2500])(
  "a view is drawn %i ms before it is attached",
  async (ms) => {
    (await ready()).close();
    const errors = vi.spyOn(globalThis, "reportError");
    const page = detached();
    feed(page, { seq: 1 });
    await pause(ms);
    document.body.append(page.element);
    await expectLive(page);
    await pause(300);
    expect(greyPixels(page)).toBe(0);
    expect(errors).not.toHaveBeenCalled();
  },
);

test("a view is drawn in an output without a size, which is opened later", async () => {
  const holder = document.createElement("div");
  holder.style.display = "none";
  document.body.append(holder);
  const page = detached();
  holder.append(page.element);
  feed(page, { seq: 1 });
  await pause(1500);
  holder.style.display = "";
  await expectLive(page);
  expect(canvasOf(page.element, "map").getBoundingClientRect().width).toBeGreaterThan(
    300,
  );
  holder.remove();
});

test("a theme that changes while the view is out of the document is followed", async () => {
  document.body.dataset.jpThemeLight = "true";
  const page = await ready();
  await live(page);
  page.element.remove();
  document.body.dataset.jpThemeLight = "false";
  await pause(300);
  document.body.append(page.element);
  const root = page.element.querySelector(".cka") as HTMLElement;
  await until(() => root.dataset.theme === "dark", "the dark theme");
  await pause(300);
  expect(greyPixels(page)).toBe(0);
});

test("a view that is moved in the midst of the drawing is drawn where it is", async () => {
  (await ready()).close();
  const page = detached();
  document.body.append(page.element);
  for (let k = 0; k < 12; k++) {
    page.element.remove();
    await pause(15);
    document.body.append(page.element);
    await pause(15);
  }
  await expectLive(page);
});

test.each([0, 10, 40, 80, 150, 300])(
  "a view that is removed after %i ms of drawing leaves nothing behind",
  async (ms) => {
    (await ready()).close();
    const bokeh = await loadedBokeh();
    const before = bokeh.documents.length;
    const page = detached();
    document.body.append(page.element);
    await pause(ms);
    page.close();
    await pause(700);
    expect(bokeh.documents.length).toBe(before);
    expect(page.element.childElementCount).toBe(0);
    expect(page.model.listeners()).toBe(0);
  },
);

test("plots that fail are drawn at the next try, and the sketch lives meanwhile", async () => {
  (await ready()).close();
  const bokeh = await loadedBokeh();
  const embed = vi.spyOn(bokeh.embed, "embed_items");
  embed.mockRejectedValueOnce(new Error("not now"));
  const page = detached();
  document.body.append(page.element);
  await until(() => text(page, ".cka-waiting").includes("not now"), "the failure");
  await expectLive(page);
  expect(embed).toHaveBeenCalledTimes(2);
  expect(page.element.querySelector(".cka-plain")).toBeNull();
});

test("plots that fail after they were embedded are drawn at the next try", async () => {
  (await ready()).close();
  const bokeh = await loadedBokeh();
  const before = bokeh.documents.length;
  const original = bokeh.embed.embed_items;
  const embed = vi.spyOn(bokeh.embed, "embed_items");
  embed.mockImplementationOnce(async (...given) => {
    const views = await original(...given);
    const [view] = views[0] ?? [];
    const axis = view?.model.document.get_model_by_name("rows_axis");
    vi.spyOn(axis as { setv(): void }, "setv").mockImplementation(() => {
      throw new Error("invalid value");
    });
    return views;
  });
  const page = detached();
  document.body.append(page.element);
  await until(
    () => text(page, ".cka-waiting").includes("invalid value"),
    "the failure",
  );
  await expectLive(page);
  expect(bokeh.documents.length).toBe(before + 1);
});

interface LoadedBokeh {
  readonly documents: unknown[];
  readonly embed: {
    embed_items(
      ...given: unknown[]
    ): Promise<
      Iterable<{ model: { document: { get_model_by_name(name: string): unknown } } }>[]
    >;
  };
}

/** The page's BokehJS. */
async function loadedBokeh(): Promise<LoadedBokeh> {
  const page = globalThis as { [loaded: symbol]: Map<string, Promise<LoadedBokeh>> };
  const [bokeh] = page[Symbol.for("cka_notebook.bokehjs")]?.values() ?? [];
  if (!bokeh) throw new Error("BokehJS is not loaded");
  return bokeh;
}
