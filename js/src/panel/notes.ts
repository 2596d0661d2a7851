/** Notes on the comparison, folded to one line until opened. */

import { type Axes, SIDES, type Side } from "../protocol.ts";
import type { Comparison } from "../state/comparison.ts";
import type { Frames } from "../state/frames.ts";
import { h, set, setText } from "../ui/dom.ts";

const FIRST_NAMES = 3;

export class Notes {
  readonly element = h("div", { class: "cka-message", role: "status" });
  private readonly comparison: Comparison;
  private readonly frames: Frames;
  private key = "";
  private isOpen = false;

  constructor(comparison: Comparison, frames: Frames) {
    this.comparison = comparison;
    this.frames = frames;
  }

  update(): void {
    const axes = this.frames.shown?.axes;
    const lines = axes ? noteLines(this.comparison, axes) : [];
    this.element.hidden = lines.length === 0;
    const key = lines.join("\n");
    if (this.key === key) return;
    this.key = key;
    this.draw(lines);
  }

  private draw(lines: readonly string[]): void {
    const [first = "", ...rest] = lines;
    const more = h("div", {}, ...rest.map((line) => h("p", {}, line)));
    const text = h("div", { class: "cka-message-text" }, h("p", {}, first), more);
    const button = h("button", {
      class: "cka-button cka-quiet",
      type: "button",
      onclick: () => {
        this.isOpen = !this.isOpen;
        show();
      },
    });
    const show = () => {
      const folded = rest.length > 0 && !this.isOpen;
      more.hidden = !this.isOpen;
      text.classList.toggle("cka-one-line", folded);
      set(button, { "aria-expanded": String(!folded) });
      setText(button, folded ? `${rest.length} more` : "Less");
    };
    show();
    this.element.replaceChildren(text, ...(rest.length > 0 ? [button] : []));
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
