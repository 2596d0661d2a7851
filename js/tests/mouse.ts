/** The real mouse and keyboard of the browser, whose button or key a test may hold down. */

import type { BrowserCommand } from "vitest/node";

type Press = { readonly x: number; readonly y: number };

/** Presses the mouse button at a place in the test's page, whose frame may be scaled. */
const press: BrowserCommand<[at: Press]> = async ({ page, iframe }, { x, y }) => {
  const frame = await iframe.owner().evaluate((element) => {
    const { left, top, width } = element.getBoundingClientRect();
    return { left, top, scale: width / (element as HTMLElement).offsetWidth };
  });
  await page.mouse.move(frame.left + x * frame.scale, frame.top + y * frame.scale);
  await page.mouse.down();
};

const release: BrowserCommand<[]> = ({ page }) => page.mouse.up();

const keyDown: BrowserCommand<[key: string]> = ({ page }, key) =>
  page.keyboard.down(key);

const keyUp: BrowserCommand<[key: string]> = ({ page }, key) => page.keyboard.up(key);

export const mouse = { press, release, keyDown, keyUp };

declare module "vitest/browser" {
  interface BrowserCommands {
    press(at: Press): Promise<void>;
    release(): Promise<void>;
    keyDown(key: string): Promise<void>;
    keyUp(key: string): Promise<void>;
  }
}
