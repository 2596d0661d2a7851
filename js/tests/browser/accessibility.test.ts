import axe from "axe-core";
import { afterEach, expect, test } from "vitest";
import { click, closeAll, drawn, feed, makeModel, pause, show, until } from "./page.ts";

/** A cell of a notebook is not a page; rows say "9.41k" as "9 408 parameters". */
const OFF = Object.fromEntries(
  ["region", "heading-order", "label-content-name-mismatch"].map((rule) => [
    rule,
    { enabled: false },
  ]),
);

afterEach(closeAll);

test.each([
  ["light", 1000, "true", "#ffffff"],
  ["dark", 1000, "false", "#111111"],
  ["light", 420, "true", "#ffffff"],
] as const)(
  "axe finds nothing wrong with a busy explorer in the %s theme, %d px wide",
  async (_, width, lab, paper) => {
    document.body.dataset.jpThemeLight = lab;
    document.body.style.background = paper;
    const message = { kind: "error", text: "ValueError: something was expected." };
    const model = makeModel({ _message: message });
    const notes = [
      { text: "Some layers are left out.", grave: false },
      { text: "The batches are not random.", grave: true },
    ];
    const page = show(model);
    page.element.style.width = `${width}px`;
    model.put({ _axes: { ...(model.state._axes as object), notes } });
    await drawn(page);
    feed(page, { seq: 1, edit: (matrix) => matrix.fill(Number.NaN, 0, 5) });
    await until(() => page.model.sentOf("ack").length > 0, "ack");
    await pause(200);
    click(page, 3, 3);
    click(page, 5, 5, { shiftKey: true });
    const bar = page.element.querySelector(".cka-tree-bar") as HTMLElement;
    if (bar.offsetHeight > 0) bar.click();
    const search = page.element.querySelector("input[type=search]") as HTMLInputElement;
    search.value = "conv";
    search.dispatchEvent(new Event("input", { bubbles: true }));
    const button = (label: string) =>
      [...page.element.querySelectorAll("button")].find((b) => b.textContent === label);
    button("Table")?.click();
    button("1 more")?.click();
    await pause(200);
    expect(page.element.querySelectorAll("td[data-at]").length).toBeGreaterThan(99);
    expect(button("Less")).toBeDefined();
    const { violations } = await axe.run(page.element, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
      rules: OFF,
    });
    const found = violations.map(({ id, nodes }) => [
      id,
      ...nodes.slice(0, 3).map((node) => `${node.html} ${node.failureSummary}`),
    ]);
    expect(found).toEqual([]);
  },
);
