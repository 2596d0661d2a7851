/** BokehJS of exactly one version, evaluated once a page, and the types of its models. */

import { imported, onceAPage } from "../once.ts";
import { gzipOf, type Model, runtimeOf } from "../protocol.ts";
import type { Connection } from "../state/connection.ts";
import { uniqueId } from "../ui/dom.ts";
import { errorText } from "../ui/format.ts";

/** The part of BokehJS that is used here. */
export interface Bokeh {
  readonly version: string;
  /** Every document ever made; BokehJS itself removes none. */
  readonly documents?: BokehDocument[];
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

export type Attributes = Record<string, unknown>;
export interface BokehModel {
  setv(attributes: Attributes): void;
  properties: Record<string, { change: { connect(slot: () => void): void } }>;
}
export interface Source extends BokehModel {
  data: Record<string, unknown>;
}
export interface BokehRange extends BokehModel {
  start: number;
  end: number;
}
export interface Plot extends BokehModel {
  inner_width: number;
  inner_height: number;
  above: BokehModel[];
  below: BokehModel[];
  left: BokehModel[];
  center: BokehModel[];
  on_event(name: string, handler: (event: { x: number; y: number }) => void): void;
}
export interface BokehDocument {
  readonly views_manager?: ViewManager | null;
  get_model_by_name(name: string): BokehModel | null;
  title(): string;
  clear(): void;
}
export interface ImageArray {
  new (values: Float32Array, shape: number[]): unknown;
}

const KERNEL_TIMEOUT_MS = 20000;

/** The page's own Bokeh if it has that version, else ours, loaded at most once. */
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
    // This front end cannot resolve the reference: ask the kernel instead.
  }
  return connection.requestBokeh(version, KERNEL_TIMEOUT_MS);
}

/** Draws each root of a document into its element; what fails leaves nothing behind. */
export async function embedded(
  bokeh: Bokeh,
  doc: object,
  roots: ReadonlyMap<string, HTMLElement>,
): Promise<ViewManager> {
  const title = uniqueId("figures");
  const [elementid] = roots.values();
  const item = {
    ...{ docid: "page", elementid, root_ids: [...roots.keys()] },
    roots: Object.fromEntries(roots),
  };
  try {
    const [views] = await bokeh.embed.embed_items({ page: { ...doc, title } }, [item]);
    if (!views) throw new Error("BokehJS did not draw the figures.");
    return views;
  } catch (error) {
    const document = bokeh.documents?.find((each) => each.title() === title);
    if (document) release(bokeh, document);
    throw error;
  }
}

/** Removes a document with its views, also from BokehJS's own lists. */
export function release(bokeh: Bokeh, document: BokehDocument): void {
  document.views_manager?.clear();
  document.clear();
  const documents = bokeh.documents ?? [];
  const at = documents.indexOf(document);
  if (at >= 0) documents.splice(at, 1);
}

/** Text that Python compressed by gzip. */
export function unzipped(gz: Uint8Array<ArrayBuffer>): Promise<string> {
  const stream = new Blob([gz]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function evaluated(gz: Uint8Array<ArrayBuffer>): Promise<Bokeh> {
  const source = await unzipped(gz);
  // A figure listens to the visual viewport for ever and would never be freed; it works
  // without one.
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
