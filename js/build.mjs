/**
 * Writes the bundle. A front end evaluates the module anew for each explorer and keeps
 * it for ever, so a page runs the code of one build once and shares it from then on.
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

const code = await bundled("src/index.ts", { format: "iife", globalName: "page" });
const hash = createHash("sha256").update(code).digest("hex").slice(0, 16);
const key = `Symbol.for("cka_notebook.page.${hash}")`;
// A function that is never called is not compiled either.
const module = `function make(){${code}return page.default}
export default globalThis[${key}]??=make();
`;
writeFileSync(`${STATIC}widget.js`, module);
writeFileSync(`${STATIC}widget.css`, await bundled("src/styles.css"));
