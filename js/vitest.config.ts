import { playwright } from "@vitest/browser-playwright";
import { defineConfig } from "vitest/config";
import { mouse } from "./tests/mouse.ts";
import { pythonFiles } from "./tests/python_files.ts";

/** Debian's Chromium unless told otherwise: nothing is downloaded. */
const env = (globalThis as { process?: { env: Record<string, string | undefined> } })
  .process?.env;
const chromium = env?.CHROMIUM ?? "/usr/bin/chromium";

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          environment: "happy-dom",
          include: ["tests/unit/**/*.test.ts"],
        },
      },
      {
        plugins: [pythonFiles()],
        test: {
          name: "browser",
          include: ["tests/browser/**/*.test.ts"],
          browser: {
            enabled: true,
            headless: true,
            screenshotFailures: false,
            provider: playwright({
              launchOptions: {
                executablePath: chromium,
                args: ["--no-sandbox", "--disable-gpu"],
              },
            }),
            commands: mouse,
            viewport: { width: 1100, height: 900 },
            instances: [{ browser: "chromium" }],
          },
        },
      },
    ],
  },
});
