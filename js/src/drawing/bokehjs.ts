/** BokehJS of exactly one version, evaluated once a page, from wherever it can be had. */

import { imported, onceAPage } from "../once.ts";
import { gzipOf, type Model, runtimeOf } from "../protocol.ts";
import type { Connection } from "../state/connection.ts";
import { errorText } from "../ui/format.ts";

/** The part of BokehJS that is used; `charts.ts` knows the rest of it. */
export interface Bokeh {
  readonly version: string;
  /** All that were ever made; BokehJS itself takes none out again. */
  readonly documents?: unknown[];
  set_log_level?(level: string): void;
  readonly embed: {
    embed_items(
      docs: Record<string, unknown>,
      items: readonly unknown[],
    ): Promise<readonly ViewManager[]>;
  };
}

export interface ViewManager extends Iterable<{ model: { document: unknown } }> {
  clear(): void;
}

const KERNEL_TIMEOUT_MS = 20000;

/** The page's own Bokeh if it is of that version, else ours, loaded at most once. */
export function loadBokeh(
  model: Model,
  connection: Connection,
  version: string,
): Promise<Bokeh> {
  const present = presentBokeh(version);
  if (present) return Promise.resolve(present);
  return onceAPage("bokehjs", version, async () =>
    evaluated(await zippedFor(model, connection, version)),
  );
}

/** Bokeh keeps each version that was ever loaded under its number. */
function presentBokeh(version: string): Bokeh | null {
  const bokeh = (globalThis as { Bokeh?: Bokeh & Record<string, Bokeh> }).Bokeh;
  if (!bokeh) return null;
  return bokeh.version === version ? bokeh : (bokeh[version] ?? null);
}

async function zippedFor(
  model: Model,
  connection: Connection,
  version: string,
): Promise<Uint8Array<ArrayBuffer>> {
  try {
    const runtime = await runtimeOf(model);
    const gz = runtime && gzipOf(runtime, version);
    if (gz) return gz;
  } catch {
    // A front end that cannot resolve the reference: the kernel is asked instead.
  }
  return connection.requestBokeh(version, KERNEL_TIMEOUT_MS);
}

/** The text that Python compressed. */
export function unzipped(gz: Uint8Array<ArrayBuffer>): Promise<string> {
  const stream = new Blob([gz]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function evaluated(gz: Uint8Array<ArrayBuffer>): Promise<Bokeh> {
  const source = await unzipped(gz);
  // A figure listens to the visual viewport for ever, and so would never be freed; where
  // there is none it does without.
  const before = "const root={},visualViewport=null;(function(){";
  const after = "\n}).call(root);export default root.Bokeh;";
  try {
    const bokeh = (await imported(before, source, after)) as Bokeh;
    bokeh.set_log_level?.("warn");
    return bokeh;
  } catch (error) {
    throw new Error(`BokehJS could not be started. ${errorText(error)}`);
  }
}
