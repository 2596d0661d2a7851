/** Elements in one expression. Text is always text: layer names are not trusted. */

type Props = Record<string, unknown> & { class?: string };
type Child = Node | string | null | false | undefined;

/** An element; `on…` props are listeners, others attributes; `false` leaves one out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on") && typeof value === "function") {
      listen(element, name.slice(2), value as EventListener);
    } else if (value !== undefined && value !== null && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.filter((child) => child !== null && isChild(child)));
  return element;
}

function isChild(child: Child): child is Node | string {
  return child !== false && child !== undefined && child !== null;
}

/** Listeners by event. One element may take over those of another. */
const listeners = new WeakMap<Element, Record<string, EventListener>>();

function listen(element: Element, event: string, listener: EventListener): void {
  const own = listeners.get(element) ?? {};
  listeners.set(element, own);
  if (!(event in own)) element.addEventListener(event, (given) => own[event]?.(given));
  own[event] = listener;
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element. */
export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Record<string, unknown> = {},
  ...children: (Node | string)[]
): SVGElementTagNameMap[K] {
  const element = document.createElementNS(SVG, tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

/** Sets or removes attributes; `undefined` and `false` remove. */
export function set(element: Element, attributes: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) {
      element.removeAttribute(name);
    } else if (element.getAttribute(name) !== String(value)) {
      element.setAttribute(name, String(value));
    }
  }
}

export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

const PATHS = {
  run: "M5 3.2v9.6L13 8z",
  pause: "M4.5 3h2.6v10H4.5zM8.9 3h2.6v10H8.9z",
  stop: "M4 4h8v8H4z",
  restart: "M8 2.5a5.5 5.5 0 1 1-5.2 3.7l1.4.5A4 4 0 1 0 8 4v2.2L4.6 3.4 8 .6z",
  undo: "M6.2 3v2.5H9a4 4 0 0 1 0 8H5V12h4a2.5 2.5 0 0 0 0-5H6.2v2.5L2.4 6.25z",
  invert: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2m0 1.4a4.6 4.6 0 0 1 0 9.2z",
  mirror: "M10 2.6 14 6H5.5V4.6H10zM6 13.4 2 10h8.5v1.4H6z",
  layers:
    "M8 1.8 14.5 5 8 8.2 1.5 5zM3 7.4l5 2.5 5-2.5 1.5.8L8 11.4 1.5 8.2zM3 10.5 8 13l5-2.5 1.5.7L8 14.4l-6.5-3.2z",
  open: "M6 3.5 10.5 8 6 12.5z",
  close: "m4.2 3.2 3.8 3.8 3.8-3.8 1 1L9 8l3.8 3.8-1 1L8 9l-3.8 3.8-1-1L7 8 3.2 4.2z",
  copy: "M5 2h8v9h-2V9.6h.6V3.4H6.4V4H5zM3 5h7v9H3zm1.4 1.4v6.2h4.2V6.4z",
  save: "M7.3 2h1.4v6l2-2 1 1L8 10.7 4.3 7l1-1 2 2zM3 12.6h10V14H3z",
  zoom: "M7 2a5 5 0 0 1 4 8l3 3-1 1-3-3A5 5 0 1 1 7 2m0 1.4a3.6 3.6 0 1 0 0 7.2 3.6 3.6 0 0 0 0-7.2M4.8 6.3h4.4v1.4H4.8z",
} as const;

export type IconName = keyof typeof PATHS;

export function icon(name: IconName): SVGSVGElement {
  const box = { viewBox: "0 0 16 16", class: "cka-icon", "aria-hidden": "true" };
  return svg("svg", box, svg("path", { d: PATHS[name] }));
}

/**
 * Makes the children of an element equal to the given ones. Those that are there are
 * changed, not replaced: a replaced one would lose the keyboard's focus, and the click
 * whose mouse button is down. A `data-key` tells siblings apart, else their order does.
 */
export function patch(parent: Element, children: readonly (Node | string)[]): void {
  const focused = focusedIn(parent);
  patchChildren(parent, children.map(asNode));
  if (focused?.isConnected && focusedIn(parent) !== focused) focused.focus();
}

function patchChildren(parent: Element, children: readonly Node[]): void {
  const there = [...parent.childNodes];
  const next = children.map((child) => {
    const at = there.findIndex((old) => isLike(old, child));
    const [old] = at < 0 ? [] : there.splice(at, 1);
    return old ? patched(old, child) : child;
  });
  for (const old of there) old.remove();
  next.forEach((node, k) => {
    const old = parent.childNodes[k] ?? null;
    if (old !== node) parent.insertBefore(node, old);
  });
}

/** The old node with all that the new one has. */
function patched(old: Node, node: Node): Node {
  if (old instanceof Element && node instanceof Element) {
    for (const name of old.getAttributeNames())
      if (!node.hasAttribute(name)) old.removeAttribute(name);
    for (const name of node.getAttributeNames())
      set(old, { [name]: node.getAttribute(name) });
    for (const [event, listener] of Object.entries(listeners.get(node) ?? {}))
      listen(old, event, listener);
    patchChildren(old, [...node.childNodes]);
  } else if (old.nodeValue !== node.nodeValue) old.nodeValue = node.nodeValue;
  return old;
}

function isLike(old: Node, node: Node): boolean {
  return old.nodeName === node.nodeName && keyOf(old) === keyOf(node);
}

function keyOf(node: Node): string | null {
  return node instanceof Element ? node.getAttribute("data-key") : null;
}

function asNode(child: Node | string): Node {
  return typeof child === "string" ? document.createTextNode(child) : child;
}

/** The element inside that has the keyboard's focus. */
function focusedIn(parent: Element): HTMLElement | null {
  const { activeElement: focused } = parent.getRootNode() as Document | ShadowRoot;
  return focused instanceof HTMLElement && parent.contains(focused) ? focused : null;
}

let serial = 0;

/** An id that no other element of the page has. */
export function uniqueId(stem: string): string {
  serial += 1;
  return `cka-${stem}-${serial}-${Math.random().toString(36).slice(2, 7)}`;
}

const PAINTED_MS = 250;

/** Resolves once the page is painted, or soon: hidden tabs are never painted. */
export function painted(): Promise<void> {
  return new Promise((resolve) => {
    requestAnimationFrame(() => requestAnimationFrame(() => resolve()));
    setTimeout(resolve, PAINTED_MS);
  });
}
