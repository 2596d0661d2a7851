import { afterEach, expect, test } from "vitest";
import { closeAll, deep, live, ready, until } from "./page.ts";

afterEach(closeAll);

test("a change of the theme is followed without drawing again", async () => {
  document.body.dataset.jpThemeLight = "true";
  const page = await ready();
  await live(page);
  const root = page.element.querySelector(".cka") as HTMLElement;
  const canvas = deep(page.element.querySelector(".cka-map"), "canvas");
  expect(root.dataset.theme).toBe("light");
  document.body.dataset.jpThemeLight = "false";
  await until(() => root.dataset.theme === "dark", "dark");
  expect(deep(page.element.querySelector(".cka-map"), "canvas")).toBe(canvas);
});

test.each([
  ["dark", "true", "rgb(227, 230, 234)"],
  ["light", "false", "rgb(29, 33, 39)"],
])("%s by wish wins over the page around until it is taken back", async (...given) => {
  const [theme, isPageLight, text] = given;
  document.body.dataset.jpThemeLight = isPageLight;
  document.body.style.setProperty("--jp-ui-font-color1", "rgb(1, 2, 3)");
  const page = await ready({ theme });
  await live(page);
  const root = page.element.querySelector(".cka") as HTMLElement;
  const shown = () => [root.dataset.theme, getComputedStyle(root).color];
  expect(shown()).toEqual([theme, text]);
  page.model.put({ theme: "auto" });
  expect(root.dataset.theme).not.toBe(theme);
  page.model.put({ theme });
  expect(shown()).toEqual([theme, text]);
});

test.each([
  ["rgb(250, 250, 250)", "light"],
  ["color(srgb 1 1 1)", "light"],
  ["color(display-p3 0.1 0.1 0.1)", "dark"],
])("on paper of %s the explorer is %s", async (paper, theme) => {
  document.body.style.background = paper;
  const page = await ready();
  expect((page.element.querySelector(".cka") as HTMLElement).dataset.theme).toBe(theme);
});
