/** The tools above the map: colors, range, order, mask, and the color bar. */

import { copyButton } from "../map/copying.ts";
import { type BoxKind, DIVERGING } from "../map/image.ts";
import type { MarkKind } from "../map/marks.ts";
import type { Options } from "../map/view.ts";
import type { Mask, Order } from "../matrix/matrix.ts";
import type { ColorRange } from "../protocol.ts";
import { h, icon, set, setText } from "../ui/dom.ts";
import { value } from "../ui/format.ts";

export interface ToolHandlers {
  palette(name: string): void;
  range(range: ColorRange): void;
  options(options: Partial<Options>): void;
  numbers(shown: boolean): void;
  marks(kind: MarkKind): void;
  /** Text of the marked pairs, to be copied. */
  pairs(): string;
  table(shown: boolean): void;
  resetZoom(): void;
}

const PALETTES = ["magma", "viridis", "cividis", "inferno", "greys"];
const ORDERS: Record<Order, string> = {
  execution: "As executed",
  depth: "By depth",
  name: "By name",
  clustered: "Clustered",
};
const MARKS: Record<MarkKind, string> = {
  none: "No marks",
  matches: "Best matches",
  path: "Best path",
};
const MARKS_HELP: Record<MarkKind, string> = {
  none: "Marks on the map",
  matches:
    "A dot is the best match of a row, a square that of a column: " +
    "where both meet, two layers are each other's best match",
  path:
    "The path from the first pair of layers to the last that never goes back " +
    "and has the highest mean",
};
const MODES = { unit: "0 to 1", fit: "Fit", manual: "Manual" } as const;
const NUMBERS_HELP = "Write the values into cells that are at least 28 pixels wide";
const TABLE_HELP = "Show the values as a table below the map";
const MASKS: Record<Mask, string> = {
  none: "All cells",
  upper: "No upper",
  lower: "No lower",
  diagonal: "No diagonal",
  threshold: "None below",
};

const EXACT_HELP =
  "Grey cells are 0 by construction, such as those of a layer with itself";

export const THRESHOLD = 0.5;

/** Keys for cells without a color in the color bar. */
export type KeyName = "below" | BoxKind;

export class MapTools {
  readonly element: HTMLElement;
  private readonly handlers: ToolHandlers;
  private readonly palette: HTMLSelectElement;
  private readonly mode = select(MODES, (mode) => this.modeChanged(mode));
  private readonly low = decimal("Lowest value of the colors", () =>
    this.manualChanged(),
  );
  private readonly high = decimal("Highest value of the colors", () =>
    this.manualChanged(),
  );
  private readonly manual: HTMLElement;
  private readonly threshold = decimal("Lowest value shown", () =>
    this.thresholdChanged(),
  );
  private readonly marks = select(
    MARKS,
    (kind) => this.marksChanged(kind),
    MARKS_HELP.none,
  );
  private readonly pairs: HTMLElement;
  private readonly mean = h("span", { class: "cka-mean" });
  readonly zoom: HTMLButtonElement;
  private readonly gradient = h("div", { class: "cka-gradient" });
  private readonly needle = h("div", { class: "cka-needle", hidden: true });
  private readonly metric = h("span", { class: "cka-metric" });
  private readonly lowText = h("span");
  private readonly highText = h("span");
  private readonly pendingWords = h("span");
  private readonly keys: Readonly<Record<KeyName, HTMLElement>> = {
    below: key("cka-below", "below 0"),
    exact: key("cka-exact", "standard error 0", EXACT_HELP),
    undefined: key("cka-hatched", "undefined", "Hover a hatched cell for the reason"),
    pending: key("cka-dotted", this.pendingWords),
  };
  private limits: readonly [number, number] = [0, 1];

  constructor(handlers: ToolHandlers) {
    this.handlers = handlers;
    const names = Object.fromEntries(PALETTES.map((name) => [name, capital(name)]));
    this.palette = select(names, (name) => handlers.palette(name), "Colors");
    this.pairs = this.makePairs();
    this.manual = h(
      "span",
      { class: "cka-manual", hidden: true },
      ...[this.low, "\u2013", this.high],
    );
    this.zoom = this.makeZoom();
    set(this.threshold, { hidden: true, value: THRESHOLD });
    this.element = h(
      "div",
      { class: "cka-tools", role: "group", "aria-label": "What the map shows" },
      this.palette,
      field("Range", this.mode, this.manual),
      ...this.makeArrangement(),
      toggle("Numbers", NUMBERS_HELP, (on) => handlers.numbers(on)),
      this.marks,
      this.pairs,
      toggle("Table", TABLE_HELP, (on) => handlers.table(on)),
      this.makeLegend(),
    );
  }

  private makePairs(): HTMLElement {
    const copy = copyButton(
      "Copy pairs",
      "Copy the marked pairs, for a spreadsheet",
      () => this.handlers.pairs(),
    );
    return h("span", { class: "cka-field", hidden: true }, this.mean, copy);
  }

  private makeZoom(): HTMLButtonElement {
    const props = {
      class: "cka-button cka-quiet cka-zoom",
      type: "button",
      title: "Show the whole map again (double-click on the map)",
      hidden: true,
      onclick: () => this.handlers.resetZoom(),
    };
    return h("button", props, icon("zoom"), "Whole map");
  }

  /** Which cells there are, and in which order. */
  private makeArrangement(): HTMLElement[] {
    const { options } = this.handlers;
    return [
      select(ORDERS, (order) => options({ order }), "Order of the layers"),
      select(MASKS, (mask) => this.maskChanged(mask), "Cells left out"),
      this.threshold,
      toggle("Transpose", "Swap rows and columns", (transpose) =>
        options({ transpose }),
      ),
      toggle("Flip", "Draw the first row at the bottom", (flip) => options({ flip })),
    ];
  }

  setRange(range: ColorRange, limits: readonly [number, number]): void {
    this.limits = limits;
    const unit = range !== "fit" && range[0] === 0 && range[1] === 1;
    const editing = this.mode.value === "manual" && range !== "fit";
    if (!editing) this.mode.value = range === "fit" ? "fit" : unit ? "unit" : "manual";
    this.manual.hidden = this.mode.value !== "manual";
    const root = this.element.getRootNode() as Document | ShadowRoot;
    const isTyping = this.manual.contains(root.activeElement);
    if (range !== "fit" && !isTyping) {
      this.low.value = String(range[0]);
      this.high.value = String(range[1]);
    }
    const [low, high] = limits;
    setText(this.lowText, limitText(low));
    setText(this.highText, limitText(high));
  }

  /** The mean of the marked cells; NaN if there are none. */
  setMean(mean: number): void {
    setText(this.mean, Number.isFinite(mean) ? `mean ${value(mean)}` : "");
  }

  setMetric(name: string): void {
    setText(this.metric, name);
  }

  setPalette(name: string, colors: readonly string[]): void {
    const offered = [...this.palette.options].map(({ value }) => value);
    if (name === DIVERGING && !offered.includes(name)) {
      // Offered only where it was chosen, which is for a difference.
      this.palette.append(h("option", { value: name }, "PuOr"));
    }
    this.palette.value = name;
    const stops = colors.filter((_, k) => k % 15 === 0);
    if (stops.length > 1) {
      this.gradient.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    }
  }

  setKeys(isShown: Partial<Record<KeyName, boolean>>): void {
    for (const [name, element] of Object.entries(this.keys)) {
      element.hidden = !isShown[name as KeyName];
    }
  }

  /** Why cells are not computed yet, in words. */
  setPending(reason: string): void {
    setText(this.pendingWords, reason.charAt(0).toLowerCase() + reason.slice(1));
  }

  setZoomed(zoomed: boolean): void {
    this.zoom.hidden = !zoomed;
  }

  /** Points at a value on the color bar. */
  point(number: number | null): void {
    const [low, high] = this.limits;
    this.needle.hidden = number === null || !Number.isFinite(number);
    if (number === null) return;
    const share = Math.max(0, Math.min(1, (number - low) / (high - low)));
    this.needle.style.left = `${100 * share}%`;
  }

  private makeLegend(): HTMLElement {
    this.setKeys({});
    return h(
      "div",
      { class: "cka-legend", "aria-hidden": "true" },
      this.metric,
      this.lowText,
      h("div", { class: "cka-scale" }, this.gradient, this.needle),
      this.highText,
      ...Object.values(this.keys),
    );
  }

  private marksChanged(kind: MarkKind): void {
    set(this.marks, { title: MARKS_HELP[kind] });
    this.pairs.hidden = kind === "none";
    this.handlers.marks(kind);
  }

  private maskChanged(mask: Mask): void {
    this.threshold.hidden = mask !== "threshold";
    this.handlers.options({ mask });
  }

  private thresholdChanged(): void {
    const threshold = numberIn(this.threshold);
    set(this.threshold, { "aria-invalid": Number.isNaN(threshold) });
    if (!Number.isNaN(threshold)) this.handlers.options({ threshold });
  }

  private modeChanged(mode: keyof typeof MODES): void {
    this.manual.hidden = mode !== "manual";
    if (mode === "unit") this.handlers.range([0, 1]);
    else if (mode === "fit") this.handlers.range("fit");
    else {
      this.low.value = limitText(this.limits[0]);
      this.high.value = limitText(this.limits[1]);
      this.manualChanged();
      this.low.focus();
    }
  }

  private manualChanged(): void {
    const [low, high] = [numberIn(this.low), numberIn(this.high)];
    const valid = low < high;
    for (const input of [this.low, this.high]) set(input, { "aria-invalid": !valid });
    if (valid) this.handlers.range([low, high]);
  }
}

function key(swatch: string, words: Node | string, title?: string): HTMLElement {
  const sample = h("span", { class: `cka-swatch ${swatch}` });
  return h("span", { class: "cka-key", title }, sample, words);
}

function numberIn({ value }: HTMLInputElement): number {
  return value.trim() === "" ? Number.NaN : Number(value.replace(",", "."));
}

function decimal(label: string, changed: () => void): HTMLInputElement {
  return h("input", {
    class: "cka-input cka-narrow",
    type: "text",
    inputmode: "decimal",
    "aria-label": label,
    title: label,
    onchange: changed,
  });
}

function limitText(number: number): string {
  return Number.isInteger(number)
    ? String(number)
    : value(number, 2).replace("\u2212", "-");
}

function capital(word: string): string {
  return `${word[0]?.toUpperCase()}${word.slice(1)}`;
}

function field(label: string, ...controls: HTMLElement[]): HTMLElement {
  return h("label", { class: "cka-field" }, label, ...controls);
}

function select<K extends string>(
  choices: Readonly<Record<K, string>>,
  changed: (choice: K) => void,
  label?: string,
): HTMLSelectElement {
  const element = h("select", {
    class: "cka-select",
    "aria-label": label,
    title: label,
    onchange: () => changed(element.value as K),
  });
  for (const [value, text] of Object.entries<string>(choices)) {
    element.append(h("option", { value }, text));
  }
  return element;
}

function toggle(
  label: string,
  title: string,
  changed: (on: boolean) => void,
): HTMLButtonElement {
  const button = h(
    "button",
    {
      class: "cka-button cka-toggle",
      type: "button",
      title,
      "aria-pressed": "false",
      onclick: () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        set(button, { "aria-pressed": String(on) });
        changed(on);
      },
    },
    label,
  );
  return button;
}
