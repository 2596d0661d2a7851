/**
 * Writes the bundle and its loader. A front end evaluates the loader anew for each explorer
 * and keeps it for ever; the bundle it evaluates once a page, told from others by its hash.
 */

import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const STATIC = fileURLToPath(new URL("../cka_notebook/static/", import.meta.url));

async function bundled(entry, options = {}) {
  const { outputFiles } = await build({
    absWorkingDir: fileURLToPath(new URL(".", import.meta.url)),
    entryPoints: [entry],
    bundle: true,
    minify: true,
    legalComments: "none",
    target: "es2022",
    write: false,
    ...options,
  });
  return outputFiles[0].text;
}

const code = await bundled("src/index.ts", { format: "esm" });
const hash = createHash("sha256").update(code).digest("hex").slice(0, 16);
const define = { BUILD: JSON.stringify(hash) };
writeFileSync(`${STATIC}widget.js`, code);
writeFileSync(
  `${STATIC}loader.js`,
  await bundled("src/loader.ts", { format: "esm", define }),
);
writeFileSync(`${STATIC}widget.css`, await bundled("src/styles.css"));
