/** One view of an explorer: head, trees, map, wired to the session. */

import { loadBokeh } from "./bokehjs.ts";
import { Controls } from "./controls.ts";
import { h, icon, set } from "./dom.ts";
import { LayerTree } from "./layer_tree.ts";
import { MapPanel } from "./map_panel.ts";
import { figureOf, type Model, type Side } from "./protocol.ts";
import { type Change, type Session, wordsOf } from "./session.ts";
import { followTheme } from "./theme.ts";

/** Below this width in pixels the trees stand above the map. */
const NARROW = 720;
/** And below this one they would push it out of sight: they fold until asked for. */
const TINY = 560;

/** Draws the session into the element and keeps it drawn; returns the clean-up. */
export function mount(model: Model, session: Session, parent: HTMLElement): () => void {
  const root = h("div", { class: "cka", role: "group", tabindex: "-1" });
  set(root, { "aria-roledescription": "CKA explorer", "aria-label": "CKA explorer" });
  parent.append(root);
  let panel: MapPanel | null = null;
  const theme = followTheme(
    root,
    () => session.tone,
    () => panel?.themeChanged(),
  );
  panel = new MapPanel(session, root, figureOf(model)?.palettes ?? {});
  const trees = [treeOf(session, 1), treeOf(session, 2)] as const;
  const side = h("div", { class: "cka-side" }, ...trees.map((tree) => tree.element));
  const fold = foldButton(root);
  const controls = new Controls(session, fold.button);
  root.append(controls.element, h("div", { class: "cka-body" }, side, panel.element));
  const drawTrees = () => {
    trees.forEach((tree, k) => {
      tree.setChosen(session.layers[k] ?? [], session.canUndo);
    });
  };
  const update = (change: Change) => {
    if (change === "trees") {
      trees.forEach((tree, k) => {
        tree.setTree(session.trees[k as 0 | 1]);
      });
    }
    if (change === "trees" || change === "layers") drawTrees();
    if (change === "status") controls.updateStatus();
    if (change === "layers" || change === "frame") controls.updateLayers();
    if (change === "message") controls.updateMessage();
    if (change === "tolerance") controls.updateTolerance();
    if (change === "theme") theme.apply();
    if (change === "frame") {
      controls.updateProgress();
      controls.notes.update();
    }
    panel?.update(change === "status" ? "frame" : change);
  };
  drawTrees();
  const unsubscribe = session.subscribe(update);
  const stopSizes = followSize(root, panel, fold.suggest);
  keepKeys(root, session);
  const gone = new AbortController();
  void start(model, session, panel, gone.signal);
  return () => {
    gone.abort();
    unsubscribe();
    stopSizes();
    theme.stop();
    panel?.destroy();
    root.remove();
  };
}

async function start(
  model: Model,
  session: Session,
  panel: MapPanel,
  gone: AbortSignal,
): Promise<void> {
  try {
    const figures = figureOf(model);
    if (!figures) throw new Error("The kernel sent no figures. Run the cell again.");
    const bokeh = await loadBokeh(model, session, figures.version);
    if (gone.aborted) return;
    await connected(panel.element, gone);
    if (!gone.aborted) await panel.start(bokeh, figures);
    if (gone.aborted) panel.destroy();
  } catch (error) {
    panel.fail(`The plots cannot be drawn; the map is a plain one. ${wordsOf(error)}`);
  }
}

/** BokehJS draws only into elements of the document; front ends may attach us late. */
function connected(element: HTMLElement, gone: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const check = () => {
      if (element.isConnected || gone.aborted) resolve();
      else setTimeout(check, 30);
    };
    check();
  });
}

function treeOf(session: Session, side: Side): LayerTree {
  const { names } = session.meta;
  const index = (side - 1) as 0 | 1;
  const other = (1 - index) as 0 | 1;
  const otherSide: Side = side === 1 ? 2 : 1;
  return new LayerTree(names[index], names[other], session.trees[index], {
    choose: (layers) => session.choose({ [side]: layers }),
    undo: () => session.undo(),
    mirror: () => {
      const tree = session.trees[other];
      const known = session.layers[index].filter((name) =>
        tree.canChoose(tree.rowOf.get(name) ?? -1),
      );
      if (known.length > 0) {
        session.choose({ [otherSide]: tree.namesOf(tree.chosenBy(known)) });
      } else session.fail("No chosen layer has a namesake in the other model.");
    },
  });
}

/** Folds the trees when told; until then, as the width suggests. */
function foldButton(root: HTMLElement): {
  button: HTMLElement;
  suggest: (folded: boolean) => void;
} {
  let isDecided = false;
  const fold = (folded: boolean) => {
    root.classList.toggle("cka-folded", folded);
    set(button, { "aria-pressed": String(!folded) });
  };
  const button = h(
    "button",
    {
      class: "cka-button cka-toggle",
      type: "button",
      "aria-pressed": "true",
      title: "Show or hide the layer trees",
      onclick: () => {
        isDecided = true;
        fold(!root.classList.contains("cka-folded"));
      },
    },
    icon("layers"),
    "Layers",
  );
  return { button, suggest: (folded) => !isDecided && fold(folded) };
}

/** Narrow or wide, and a new layout whenever the width changes or the view comes back. */
function followSize(
  root: HTMLElement,
  panel: MapPanel,
  fold: (folded: boolean) => void,
): () => void {
  const measure = () => {
    const width = root.clientWidth;
    root.classList.toggle("cka-slim", width > 0 && width < NARROW);
    if (width > 0) fold(width < TINY);
    panel.resize(panel.element.clientWidth);
  };
  let frame = 0;
  const soon = () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(measure);
  };
  const sizes = new ResizeObserver(soon);
  sizes.observe(root);
  sizes.observe(panel.element);
  const sight = new IntersectionObserver(soon);
  sight.observe(root);
  measure();
  return () => {
    cancelAnimationFrame(frame);
    sizes.disconnect();
    sight.disconnect();
  };
}

/** Keys pressed here are not the notebook's shortcuts ("x" would cut the cell). */
function keepKeys(root: HTMLElement, session: Session): void {
  root.addEventListener("keydown", (event) => {
    const control = event.ctrlKey || event.metaKey;
    const writes = event.target instanceof HTMLInputElement;
    if (control && event.key.toLowerCase() === "z" && !writes) {
      event.preventDefault();
      event.stopPropagation();
      session.undo();
    } else if (!control && event.key !== "Escape") event.stopPropagation();
  });
}
