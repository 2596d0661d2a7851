/** Notes on the comparison, folded to one line until opened. */

import { type Axes, SIDES, type Side } from "../protocol.ts";
import type { Comparison } from "../state/comparison.ts";
import type { Frames } from "../state/frames.ts";
import { h, patch, set, setText } from "../ui/dom.ts";

const FIRST_NAMES = 3;

export class Notes {
  readonly element: HTMLElement;
  private readonly comparison: Comparison;
  private readonly frames: Frames;
  private readonly first = h("p");
  private readonly rest = h("div");
  private readonly text = h(
    "div",
    { class: "cka-message-text" },
    ...[this.first, this.rest],
  );
  private readonly button = h("button", {
    class: "cka-button cka-quiet",
    type: "button",
    onclick: () => this.toggle(),
  });
  private lines: readonly string[] = [];
  private isOpen = false;

  constructor(comparison: Comparison, frames: Frames) {
    this.comparison = comparison;
    this.frames = frames;
    const parts = [this.text, this.button];
    this.element = h("div", { class: "cka-message", role: "status" }, ...parts);
  }

  update(): void {
    const axes = this.frames.shown?.axes;
    this.lines = axes ? noteLines(this.comparison, axes) : [];
    this.element.hidden = this.lines.length === 0;
    this.draw();
  }

  private toggle(): void {
    this.isOpen = !this.isOpen;
    this.draw();
  }

  private draw(): void {
    const [first = "", ...rest] = this.lines;
    const folded = rest.length > 0 && !this.isOpen;
    setText(this.first, first);
    patch(
      this.rest,
      rest.map((line) => h("p", {}, line)),
    );
    this.rest.hidden = !this.isOpen;
    this.text.classList.toggle("cka-one-line", folded);
    this.button.hidden = rest.length === 0;
    set(this.button, { "aria-expanded": String(!folded) });
    setText(this.button, folded ? `${rest.length} more` : "Less");
  }
}

/** The kernel's notes, grave ones first, then which layers are undefined and why. */
export function noteLines(comparison: Comparison, axes: Axes): string[] {
  const grave = axes.notes.filter((note) => note.grave);
  const others = axes.notes.filter((note) => !note.grave);
  const undefinedOnes = SIDES.flatMap((side) =>
    comparison.isSelf && side === 1 ? [] : undefinedLines(comparison, axes, side),
  );
  return [...[...grave, ...others].map(({ text }) => text), ...undefinedOnes];
}

/**
 * One line for each reason, worded as in the notes of a finished result; reasons that
 * those notes quote are left out.
 */
function undefinedLines(comparison: Comparison, axes: Axes, side: Side): string[] {
  const byReason = new Map<string, string[]>();
  for (const [name, reason] of Object.entries(axes.undefinedLayers[side])) {
    byReason.set(reason, [...(byReason.get(reason) ?? []), name]);
  }
  const model = `${comparison.names[side]}: `;
  const isSaid = (reason: string) =>
    axes.notes.some(({ text }) => text.startsWith(model) && text.includes(reason));
  return [...byReason]
    .filter(([reason]) => !isSaid(reason))
    .map(([reason, layers]) => {
      const names = layers.map((name) => comparison.layerName(side, name));
      return `${model}${areWords(names)} undefined, ${reason}.`;
    });
}

/** "fc is", or "5 layers (a, b, c, …) are". */
function areWords(names: readonly string[]): string {
  if (names.length === 1) return `${names[0]} is`;
  const first = names.slice(0, FIRST_NAMES).join(", ");
  const more = names.length > FIRST_NAMES ? ", \u2026" : "";
  return `${names.length} layers (${first}${more}) are`;
}
