/** A page with one explorer, fed by hand, as the browser tests and people see it. */

import bokehjs from "virtual:bokehjs";
import figures from "virtual:figures";
import "../../src/styles.css";
import widget from "../../src/index.ts";
import { FakeModel, stateOf, wireFrame } from "../fake.ts";

const BYTES = Uint8Array.from(atob(bokehjs), (letter) => letter.charCodeAt(0));

export interface Page {
  readonly model: FakeModel;
  readonly element: HTMLElement;
  readonly close: () => void;
}

/** The model as Lab gives it: BokehJS comes through the shared runtime model. */
export function makeModel(state: Record<string, unknown> = {}): FakeModel {
  const model = new FakeModel({ ...stateOf({ figure: figures }), ...state });
  const runtime = new FakeModel({
    version: figures.version,
    gz: new DataView(BYTES.buffer),
  });
  model.widget_manager = {
    get_model: async (id) => {
      if (id !== "runtime") throw new Error(`no model ${id}`);
      return runtime;
    },
  };
  return model;
}

const open: Page[] = [];

/** Closes what a test has shown, and takes back what it did to the document. */
export function closeAll(): void {
  for (const page of open.splice(0)) page.close();
  document.body.removeAttribute("data-jp-theme-light");
  document.body.removeAttribute("style");
}

/** The state of an explorer that shows a difference of two results. */
export function difference(): Record<string, unknown> {
  const _meta = { ...(stateOf()._meta as object), is_difference: true };
  return { metric: "cka difference", _meta };
}

export function show(model: FakeModel): Page {
  const closeModel = widget.initialize({ model });
  const element = document.createElement("div");
  document.body.append(element);
  const closeView = widget.render({ model, el: element });
  const close = () => {
    closeView();
    closeModel();
    element.remove();
  };
  const page = { model, element, close };
  open.push(page);
  return page;
}

export function secondView(page: Page): { element: HTMLElement; close: () => void } {
  const element = document.createElement("div");
  document.body.append(element);
  return { element, close: widget.render({ model: page.model, el: element }) };
}

export function feed(
  page: Page,
  options: Partial<Parameters<typeof wireFrame>[0]>,
): void {
  const { layers1, layers2 } = page.model.state._axes as Record<string, string[]>;
  const rows = layers1?.length ?? 0;
  const cols = layers2?.length ?? 0;
  page.model.message(...wireFrame({ seq: 1, rows, cols, ...options }));
}

/** Waits until the condition holds; fails with the words after ten seconds. */
export async function until(condition: () => unknown, words: string): Promise<void> {
  const start = performance.now();
  while (!condition()) {
    if (performance.now() - start > 10000)
      throw new Error(`Timed out waiting for: ${words}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The canvas of a figure, through the shadow roots that BokehJS draws into. */
export function canvasOf(element: HTMLElement, slot: string): HTMLCanvasElement {
  const found = deep(element.querySelector(`.cka-${slot}`), "canvas");
  if (!found) throw new Error(`no canvas in ${slot}`);
  return found as HTMLCanvasElement;
}

export function deep(node: Element | null, selector: string): Element | null {
  if (!node) return null;
  const inside: ParentNode[] = [node];
  if (node.shadowRoot) inside.push(node.shadowRoot);
  for (const root of inside) {
    const hit = root.querySelector(selector);
    if (hit) return hit;
    for (const child of root.querySelectorAll("*")) {
      const below = child.shadowRoot ? deep(child, selector) : null;
      if (below) return below;
    }
  }
  return null;
}

/** Chooses in the list of that name, as a person does. */
export function choose(page: Page, label: string, value: string): void {
  const list = page.element.querySelector<HTMLSelectElement>(
    `select[aria-label='${label}']`,
  );
  if (!list) throw new Error(`no list ${label}`);
  list.value = value;
  list.dispatchEvent(new Event("change"));
}

export function press(page: Page, label: string): void {
  const button = [...page.element.querySelectorAll("button")].find(
    (element) => element.textContent === label,
  );
  if (!button) throw new Error(`no button ${label}`);
  button.click();
}

/** A page with its map drawn by BokehJS. */
export async function ready(state: Record<string, unknown> = {}): Promise<Page> {
  const page = show(makeModel(state));
  await drawn(page);
  return page;
}

export function drawn(page: Page, element = page.element): Promise<void> {
  const waiting = () => element.querySelector<HTMLElement>(".cka-waiting")?.hidden;
  return until(waiting, "the map");
}

/** Sends frames and waits until the last one is shown. */
export async function live(page: Page, frames = 5): Promise<void> {
  for (let seq = 1; seq <= frames; seq++) feed(page, { seq, batch: 8 * seq });
  await until(
    () => acks(page).at(-1)?.seq === frames,
    "the last frame is acknowledged",
  );
  await pause(150);
}

export function text(page: Page, selector: string): string {
  return page.element.querySelector(selector)?.textContent ?? "";
}

export function acks(page: Page): Record<string, unknown>[] {
  return page.model.sentOf("ack");
}

/** Center of a cell in the viewport's pixels. */
export function cellCenter(
  page: Page,
  row: number,
  col: number,
): { x: number; y: number } {
  const map = page.element.querySelector(".cka-map") as HTMLElement;
  const stage = page.element.querySelector<HTMLElement>(".cka-stage");
  const read = (name: string) =>
    Number.parseFloat(stage?.style.getPropertyValue(name) ?? "");
  const { layers1 = [], layers2 = [] } = page.model.state as Record<string, string[]>;
  const box = map.getBoundingClientRect();
  const width = box.width - read("--left") - 10;
  const height = read("--frame-height");
  return {
    x: box.x + read("--left") + (width * (col + 0.5)) / layers2.length,
    y: box.y + 6 + (height * (row + 0.5)) / layers1.length,
  };
}

/** Color of the map at a cell's center, as the user sees it. */
export function colorAt(page: Page, row: number, col: number, slot = "map"): number[] {
  const sketch = page.element.querySelector<HTMLCanvasElement>(".cka-sketch");
  const canvas = (slot === "sketch" && sketch) || canvasOf(page.element, slot);
  const { x, y } = cellCenter(page, row, col);
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  const pixel = canvas
    .getContext("2d")
    ?.getImageData((x - box.x) * scale, (y - box.y) * scale, 1, 1).data;
  return Array.from(pixel ?? []);
}

/** A click as a mouse makes it. */
export function click(page: Page, row: number, col: number, more: MouseEventInit = {}) {
  const { x, y } = cellCenter(page, row, col);
  const target = deepestAt(x, y);
  const init = {
    clientX: x,
    clientY: y,
    bubbles: true,
    composed: true,
    cancelable: true,
    pointerId: 1,
    isPrimary: true,
    button: 0,
    pointerType: "mouse",
    ...more,
  };
  target.dispatchEvent(new PointerEvent("pointerdown", { ...init, buttons: 1 }));
  target.dispatchEvent(new PointerEvent("pointerup", init));
  target.dispatchEvent(new MouseEvent("click", init));
}

export function point(page: Page, row: number, col: number): void {
  const { x, y } = cellCenter(page, row, col);
  const init = { clientX: x, clientY: y, bubbles: true, composed: true, pointerId: 1 };
  deepestAt(x, y).dispatchEvent(
    new PointerEvent("pointermove", { ...init, pointerType: "mouse", isPrimary: true }),
  );
}

export function deepestAt(x: number, y: number): Element {
  let element = document.elementFromPoint(x, y);
  while (element?.shadowRoot) {
    const inner = element.shadowRoot.elementFromPoint(x, y);
    if (!inner || inner === element) break;
    element = inner;
  }
  if (!element) throw new Error(`nothing at ${x}, ${y}`);
  return element;
}
