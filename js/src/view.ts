/** One view of an explorer: head, trees and map, connected to the session. */

import { loadBokeh } from "./drawing/bokehjs.ts";
import { Controls } from "./panel/controls.ts";
import { MapPanel } from "./panel/map_panel.ts";
import { figureOf, type Model } from "./protocol.ts";
import type { Change } from "./state/changes.ts";
import type { Session } from "./state/session.ts";
import { TreeSide } from "./tree/side.ts";
import { h, set } from "./ui/dom.ts";
import { errorText } from "./ui/format.ts";
import { Press } from "./ui/press.ts";
import { followTheme } from "./ui/theme.ts";

/** A front end may move or hide a view in the midst of the first drawing. */
const TRY_AGAIN_AFTER_MS = [300, 1000, 3000, 10000, 0];

/** Draws the session into the element and keeps it drawn; returns the clean-up. */
export function mount(model: Model, session: Session, parent: HTMLElement): () => void {
  const root = h("div", { class: "cka", role: "group", tabindex: "-1" });
  set(root, { "aria-roledescription": "CKA explorer", "aria-label": "CKA explorer" });
  parent.append(root);
  let panel: MapPanel | null = null;
  const themeChanged = () => panel?.themeChanged();
  const theme = followTheme(root, () => session.tone, themeChanged);
  panel = new MapPanel(session, root, figureOf(model)?.palettes ?? {});
  const side = new TreeSide(session, root);
  const controls = new Controls(session, side.toggle);
  const body = h("div", { class: "cka-body" }, side.element, panel.element);
  root.append(controls.element, body);
  const gone = new AbortController();
  const press = new Press(root, gone.signal);
  const update = (change: Change) => {
    side.update(change);
    controls.update(change);
    if (change === "theme") theme.apply();
    panel.update(change);
  };
  const unsubscribe = session.subscribe((change) =>
    press.act(change, () => update(change)),
  );
  const stopSizes = followSize(root, panel, side, theme.apply);
  keepKeys(root, () => session.choice.undo());
  const draw = async () => {
    const figures = figureOf(model);
    if (!figures) throw new Error("The kernel sent no figures. Run the cell again.");
    const bokeh = await loadBokeh(model, session.connection, figures.version);
    await connected(root, gone.signal);
    if (gone.signal.aborted) return;
    theme.apply();
    await panel.start(bokeh, figures, press);
  };
  void drawPlots(panel, draw, gone.signal);
  return () => {
    gone.abort();
    unsubscribe();
    stopSizes();
    theme.stop();
    panel.destroy();
    root.remove();
  };
}

/** Tries to draw the plots, and again if that fails: the sketch takes their place. */
async function drawPlots(
  panel: MapPanel,
  draw: () => Promise<void>,
  gone: AbortSignal,
): Promise<void> {
  for (const wait of TRY_AGAIN_AFTER_MS) {
    try {
      await draw();
      break;
    } catch (error) {
      if (gone.aborted) break;
      panel.fail(
        `The plots cannot be drawn, so the map is a plain one. ${errorText(error)}`,
      );
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
  if (gone.aborted) panel.destroy();
}

/** BokehJS draws only into elements of the document; front ends may attach ours late. */
function connected(element: HTMLElement, gone: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const check = () => {
      if (element.isConnected || gone.aborted) resolve();
      else setTimeout(check, 30);
    };
    check();
  });
}

/** Lays the view out again whenever its width changes or it becomes visible. */
function followSize(
  root: HTMLElement,
  panel: MapPanel,
  side: TreeSide,
  appears: () => void,
): () => void {
  const measure = () => {
    const width = root.clientWidth;
    if (width > 0) side.resize(width);
    panel.resize(panel.element.clientWidth);
  };
  let frame = 0;
  const measureSoon = () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(measure);
  };
  const sizes = new ResizeObserver(measureSoon);
  for (const element of [root, panel.element]) sizes.observe(element);
  const visibility = new IntersectionObserver(() => {
    appears();
    measureSoon();
  });
  visibility.observe(root);
  measure();
  return () => {
    cancelAnimationFrame(frame);
    sizes.disconnect();
    visibility.disconnect();
  };
}

/** Keeps keys from being shortcuts of the notebook ("x" would cut the cell). */
function keepKeys(root: HTMLElement, undo: () => void): void {
  root.addEventListener("keydown", (event) => {
    const control = event.ctrlKey || event.metaKey;
    const isTyping = event.target instanceof HTMLInputElement;
    if (control && event.key.toLowerCase() === "z" && !isTyping) {
      event.preventDefault();
      event.stopPropagation();
      undo();
    } else if (!control && event.key !== "Escape") event.stopPropagation();
  });
}
