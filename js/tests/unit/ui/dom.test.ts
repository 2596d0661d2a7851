import { beforeEach, expect, test, vi } from "vitest";
import { h, patch, svg } from "../../../src/ui/dom.ts";

let parent: HTMLElement;

const keyed = (key: string, ...children: (Node | string)[]) =>
  h("button", { "data-key": key }, ...children);

beforeEach(() => {
  parent = h("div");
  document.body.replaceChildren(parent);
});

test("elements that are there are changed, not replaced", () => {
  patch(parent, [h("p", { class: "a", title: "old" }, "one ", h("b", {}, "two"))]);
  const paragraph = parent.firstElementChild;
  const bold = parent.querySelector("b");
  patch(parent, [h("p", { class: "b" }, "1 ", h("b", {}, "2"), "3")]);
  expect(parent.firstElementChild).toBe(paragraph);
  expect(parent.querySelector("b")).toBe(bold);
  expect(parent.innerHTML).toBe('<p class="b">1 <b>2</b>3</p>');
});

test("a key tells siblings apart, in whatever order they come", () => {
  patch(parent, [keyed("a"), keyed("b"), keyed("c")]);
  const [a, b, c] = parent.children;
  patch(parent, [keyed("c"), keyed("d"), keyed("a")]);
  expect(parent.children[0]).toBe(c);
  expect(parent.children[2]).toBe(a);
  expect(parent.children).toHaveLength(3);
  expect(b?.isConnected).toBe(false);
});

test("an element takes over the listeners of the one that it stands for", () => {
  const [first, second] = [vi.fn(), vi.fn()];
  patch(parent, [h("button", { onclick: first })]);
  patch(parent, [h("button", { onclick: second })]);
  parent.querySelector("button")?.click();
  expect(first).not.toHaveBeenCalled();
  expect(second).toHaveBeenCalledTimes(1);
});

test("the focus stays, also on an element that has moved", () => {
  patch(parent, [keyed("a"), keyed("b")]);
  const [, b] = parent.querySelectorAll("button");
  b?.focus();
  patch(parent, [keyed("b"), keyed("a")]);
  expect(document.activeElement).toBe(b);
  patch(parent, [keyed("a")]);
  expect(document.activeElement).not.toBe(b);
});

test("drawings and text are patched, too", () => {
  patch(parent, ["old", svg("svg", {}, svg("path", { d: "M0 0" }))]);
  const path = parent.querySelector("path");
  patch(parent, ["new", svg("svg", {}, svg("path", { d: "M1 1" }))]);
  expect(parent.querySelector("path")).toBe(path);
  expect(path?.getAttribute("d")).toBe("M1 1");
  expect(parent.textContent).toBe("new");
});
