/** Light or dark, as asked for or as the page around is, and the colors of the charts. */

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

/** In the place of palettes that the kernel did not send. */
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
  return luminanceBehind(element) ?? matchMedia(DARK).matches;
}

/** Whether the first painted background above the element is dark; null if none is. */
function luminanceBehind(element: Element): boolean | null {
  for (let node = above(element); node; node = above(node)) {
    const color = getComputedStyle(node).backgroundColor;
    const parts = color.match(/(?<!\w)[\d.]+/g)?.map(Number);
    const [red = 0, green = 0, blue = 0, alpha = 1] = parts ?? [0, 0, 0, 0];
    // "rgb(255, 255, 255)" is "color(srgb 1 1 1)".
    const white = color.startsWith("color(") ? 1 : 255;
    if (alpha > 0.5) {
      return 0.299 * red + 0.587 * green + 0.114 * blue < white / 2;
    }
  }
  return null;
}

/** The element around, also across the edge of a shadow tree. */
function above(element: Element): Element | null {
  const root = element.getRootNode();
  return element.parentElement ?? (root instanceof ShadowRoot ? root.host : null);
}

/** The colors in force, resolved by the browser from the custom properties of our css. */
export function themeOf(root: HTMLElement): Theme {
  const probe = document.createElement("span");
  root.append(probe);
  const color = (name: string) => {
    probe.style.color = `var(--cka-${name})`;
    return getComputedStyle(probe).color;
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
    font: getComputedStyle(root).fontFamily,
  };
  probe.remove();
  return theme;
}

export interface Follower {
  /** To be called when another theme is asked for. */
  readonly apply: () => void;
  readonly stop: () => void;
}

/**
 * Marks the root light or dark, now and at each change of the page's theme.
 *
 * Asked for one of them by `wanted`, it is that one, whatever the page around is.
 */
export function followTheme(
  root: HTMLElement,
  wanted: () => Tone | null,
  changed: () => void,
): Follower {
  let last = "";
  const apply = () => {
    root.dataset.theme = wanted() ?? (isDark(root) ? "dark" : "light");
    const now = JSON.stringify(themeOf(root));
    if (now !== last) {
      last = now;
      changed();
    }
  };
  // A theme's stylesheet may arrive after the attribute that announces it.
  let late: ReturnType<typeof setTimeout>[] = [];
  const soon = () => {
    apply();
    late.forEach(clearTimeout);
    late = [100, 600, 2000].map((delay) => setTimeout(apply, delay));
  };
  const observer = new MutationObserver(soon);
  for (const target of [document.body, document.documentElement]) {
    observer.observe(target, { attributes: true, attributeFilter: WATCHED });
  }
  const media = matchMedia(DARK);
  media.addEventListener("change", soon);
  soon();
  const stop = () => {
    observer.disconnect();
    media.removeEventListener("change", soon);
    late.forEach(clearTimeout);
  };
  return { apply, stop };
}
