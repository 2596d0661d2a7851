/**
 * The map for the keyboard and for screen readers: a grid with one cell, the cursor.
 *
 * It lies over the canvas, lets the mouse through, and announces the cell at the cursor.
 */

import type { Cell } from "../map/view.ts";
import { h, set, setText, uniqueId } from "../ui/dom.ts";

export interface GridHandlers {
  /** Both names and the value of a cell, to be spoken. */
  say(cell: Cell): string;
  moved(cell: Cell | null): void;
  chosen(cell: Cell, pin: boolean): void;
  cleared(): void;
  copied(cell: Cell): void;
}

const PAGE = 10;

export class CellGrid {
  readonly element: HTMLElement;
  private readonly handlers: GridHandlers;
  private readonly row = h("div", { role: "row" });
  private readonly cell: HTMLElement;
  private readonly live = h("div", {
    class: "cka-hidden",
    role: "status",
    "aria-live": "polite",
  });
  private size = { rows: 0, cols: 0 };
  private cursor: Cell = { row: 0, col: 0 };

  constructor(handlers: GridHandlers) {
    this.handlers = handlers;
    this.cell = h("div", { role: "gridcell", id: uniqueId("cell") });
    this.row.append(this.cell);
    const grid = h(
      "div",
      {
        class: "cka-grid",
        role: "grid",
        tabindex: "0",
        "aria-activedescendant": this.cell.id,
        onkeydown: (event: KeyboardEvent) => this.pressed(event),
        onfocus: () => this.moveTo(this.cursor, false),
        onblur: () => this.handlers.moved(null),
      },
      h("div", { class: "cka-hidden", role: "presentation" }, this.row),
    );
    this.grid = grid;
    this.element = h("div", { class: "cka-grid-layer" }, grid, this.live);
  }

  private readonly grid: HTMLElement;

  setSize(rows: number, cols: number, summary: string): void {
    this.size = { rows, cols };
    set(this.grid, {
      "aria-rowcount": rows,
      "aria-colcount": cols,
      "aria-label": summary,
      "aria-readonly": "true",
    });
    this.cursor = this.inside(this.cursor);
    this.describe();
  }

  /** Moves the cursor silently; after a click the grid also takes the keyboard's focus. */
  setCursor(cell: Cell, takeFocus: boolean): void {
    this.cursor = this.inside(cell);
    this.describe();
    if (!takeFocus) return;
    this.grid.classList.add("cka-by-mouse");
    this.grid.focus({ preventScroll: true });
  }

  private pressed(event: KeyboardEvent): void {
    this.grid.classList.remove("cka-by-mouse");
    const hasControl = event.ctrlKey || event.metaKey;
    const to = this.target(event.key, hasControl);
    const { key } = event;
    if (to) this.moveTo(to, true);
    else if (key === "Enter" || key === " ") {
      this.handlers.chosen(this.cursor, event.shiftKey);
    } else if (hasControl && key.toLowerCase() === "c" && !isSelecting()) {
      this.handlers.copied(this.cursor);
      setText(this.live, "Copied");
    } else if (key === "Escape" || key === "Delete") this.handlers.cleared();
    else return;
    event.preventDefault();
  }

  /** The cell that a key moves the cursor to. */
  private target(key: string, hasControl: boolean): Cell | undefined {
    const { row, col } = this.cursor;
    const { rows, cols } = this.size;
    const moves: Record<string, Cell> = {
      ArrowDown: { row: row + 1, col },
      ArrowUp: { row: row - 1, col },
      ArrowRight: { row, col: col + 1 },
      ArrowLeft: { row, col: col - 1 },
      PageDown: { row: row + PAGE, col },
      PageUp: { row: row - PAGE, col },
      Home: { row: hasControl ? 0 : row, col: 0 },
      End: { row: hasControl ? rows - 1 : row, col: cols - 1 },
    };
    return moves[key];
  }

  private moveTo(cell: Cell, aloud: boolean): void {
    if (this.size.rows === 0 || this.size.cols === 0) return;
    this.cursor = this.inside(cell);
    this.describe();
    if (aloud) setText(this.live, this.handlers.say(this.cursor));
    this.handlers.moved(this.cursor);
  }

  private describe(): void {
    const { row, col } = this.cursor;
    set(this.row, { "aria-rowindex": row + 1 });
    set(this.cell, { "aria-colindex": col + 1 });
    const empty = this.size.rows === 0 || this.size.cols === 0;
    setText(this.cell, empty ? "no values yet" : this.handlers.say(this.cursor));
  }

  private inside({ row, col }: Cell): Cell {
    const { rows, cols } = this.size;
    return {
      row: Math.max(0, Math.min(rows - 1, row)),
      col: Math.max(0, Math.min(cols - 1, col)),
    };
  }
}

/** Whether text is selected somewhere, which Ctrl+C then copies. */
function isSelecting(): boolean {
  return (getSelection()?.toString() ?? "") !== "";
}
