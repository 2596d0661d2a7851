/** The figures and BokehJS, which only Python has, as modules for the browser tests. */

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const LOCAL = `${ROOT}.venv/bin/python`;
const PYTHON = process.env.PYTHON ?? (existsSync(LOCAL) ? LOCAL : "python3");

const FIGURES = `
import json
from cka_notebook import _figures
print(json.dumps(_figures.figure_json(_figures.explorer_figure())))
`;

const BOKEHJS = `
from pathlib import Path
import bokeh
print(Path(bokeh.__file__).parent / "server/static/js/bokeh.min.js")
`;

const MODULES: Record<string, () => string> = {
  "virtual:figures": () => `export default ${python(FIGURES)};`,
  "virtual:bokehjs": () => {
    const source = readFileSync(python(BOKEHJS).trim());
    return `export default "${gzipSync(source).toString("base64")}";`;
  },
};

export function pythonFiles() {
  return {
    name: "python-files",
    resolveId: (id: string) => (id in MODULES ? `\0${id}` : undefined),
    load: (id: string) => MODULES[id.slice(1)]?.(),
  };
}

function python(program: string): string {
  return execFileSync(PYTHON, ["-c", program], {
    cwd: ROOT,
    encoding: "utf-8",
    env: { ...process.env, OMP_NUM_THREADS: "1" },
    maxBuffer: 2 ** 26,
  });
}
