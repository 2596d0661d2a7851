/** Light or dark, as asked for or as the surrounding page, and the colors of the charts. */

import type { Tone } from "../protocol.ts";

export interface Theme {
  readonly dark: boolean;
  readonly text: string;
  readonly muted: string;
  readonly grid: string;
  readonly frame: string;
  readonly row: string;
  readonly column: string;
  readonly history: string;
  readonly below: string;
  readonly exact: string;
  readonly pins: readonly string[];
  readonly font: string;
}

/** Replaces a palette that the kernel did not send. */
export const GREYS: readonly string[] = Array.from(
  { length: 256 },
  (_, k) => `#${k.toString(16).padStart(2, "0").repeat(3)}`,
);

const WATCHED = [
  "class",
  "data-jp-theme-light",
  "data-jp-theme-name",
  "theme",
  "style",
];
const DARK = "(prefers-color-scheme: dark)";

export function isDark(element: Element): boolean {
  const { body, documentElement: html } = document;
  const lab = body.dataset.jpThemeLight;
  if (lab === "true" || lab === "false") return lab === "false";
  if (body.matches(".vscode-dark, .vscode-high-contrast")) return true;
  if (body.matches(".vscode-light")) return false;
  const colab = html.getAttribute("theme");
  if (colab === "dark" || colab === "light") return colab === "dark";
  return isBackgroundDark(element) ?? matchMedia(DARK).matches;
}

/** Whether the first opaque background behind the element is dark; null if none is. */
function isBackgroundDark(element: Element): boolean | null {
  for (let node = above(element); node; node = above(node)) {
    const color = getComputedStyle(node).backgroundColor;
    const parts = color.match(/(?<!\w)[\d.]+/g)?.map(Number);
    const [red = 0, green = 0, blue = 0, alpha = 1] = parts ?? [0, 0, 0, 0];
    // White is "rgb(255, 255, 255)" or "color(srgb 1 1 1)".
    const white = color.startsWith("color(") ? 1 : 255;
    if (alpha > 0.5) {
      return 0.299 * red + 0.587 * green + 0.114 * blue < white / 2;
    }
  }
  return null;
}

/** The parent element, also across the edge of a shadow tree. */
function above(element: Element): Element | null {
  const root = element.getRootNode();
  return element.parentElement ?? (root instanceof ShadowRoot ? root.host : null);
}

/** Can be seen on light and on dark, until the real color is known. */
const GREY = "rgb(128, 128, 128)";

/**
 * The current colors, as the browser resolves the custom properties of our style sheet.
 * Outside the document it resolves none.
 */
export function themeOf(root: HTMLElement): Theme {
  const probe = document.createElement("span");
  root.append(probe);
  const color = (name: string) => {
    probe.style.color = `var(--cka-${name})`;
    return getComputedStyle(probe).color || GREY;
  };
  const theme = {
    dark: root.dataset.theme === "dark",
    text: color("text"),
    muted: color("muted"),
    grid: color("grid"),
    frame: color("line"),
    row: color("row"),
    column: color("column"),
    history: color("history"),
    below: color("below"),
    exact: color("exact"),
    pins: [1, 2, 3, 4, 5, 6, 7, 8].map((k) => color(`pin${k}`)),
    font: getComputedStyle(root).fontFamily || "sans-serif",
  };
  probe.remove();
  return theme;
}

export interface Follower {
  /** To be called when another theme was asked for, or the root is in the document. */
  readonly apply: () => void;
  readonly stop: () => void;
}

/**
 * Marks the root as light or dark, now and whenever the page's theme changes.
 *
 * A theme asked for by `wanted` wins over that of the surrounding page.
 */
export function followTheme(
  root: HTMLElement,
  wanted: () => Tone | null,
  changed: () => void,
): Follower {
  let last = "";
  const apply = () => {
    if (last && !root.isConnected) return;
    root.dataset.theme = wanted() ?? (isDark(root) ? "dark" : "light");
    const now = JSON.stringify(themeOf(root));
    if (now === last) return;
    changed();
    last = now;
  };
  // A theme's style sheet may load after the attribute that announces it.
  let timers: ReturnType<typeof setTimeout>[] = [];
  const applySoon = () => {
    apply();
    timers.forEach(clearTimeout);
    timers = [100, 600, 2000].map((delay) => setTimeout(apply, delay));
  };
  const unwatch = watchTheme(applySoon);
  applySoon();
  const stop = () => {
    unwatch();
    timers.forEach(clearTimeout);
  };
  return { apply, stop };
}

/** Calls back when an attribute or a preference changes that may change the theme. */
function watchTheme(changed: () => void): () => void {
  const observer = new MutationObserver(changed);
  for (const target of [document.body, document.documentElement]) {
    observer.observe(target, { attributes: true, attributeFilter: WATCHED });
  }
  const media = matchMedia(DARK);
  media.addEventListener("change", changed);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", changed);
  };
}
