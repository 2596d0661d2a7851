import { afterEach, expect, test } from "vitest";
import { vitColumns, wireHistory, wireTree } from "../fake.ts";
import {
  acks,
  click,
  closeAll,
  colorAt,
  deep,
  drawn,
  feed,
  live,
  makeModel,
  pause,
  point,
  ready,
  secondView,
  text,
  until,
} from "./page.ts";

afterEach(closeAll);

test("a second view shows the same cell, and closing it leaves the first", async () => {
  const page = await ready();
  await live(page);
  const second = secondView(page);
  await drawn(page, second.element);
  click(page, 1, 1);
  const caption = () => second.element.querySelector(".cka-row-caption")?.textContent;
  await until(() => caption()?.includes("layer1.0"), "the focus in the second view");
  feed(page, { seq: 7 });
  await until(() => acks(page).at(-1)?.seq === 7, "ack");
  expect(acks(page).at(-1)?.views).toBe(2);
  second.close();
  feed(page, { seq: 8 });
  await until(() => acks(page).at(-1)?.seq === 8, "ack");
  expect(acks(page).at(-1)?.views).toBe(1);
  expect(second.element.childElementCount).toBe(0);
});

test("a finished run is drawn from the traits, with no kernel", async () => {
  const source = makeModel();
  const { layers1, layers2 } = source.state as Record<string, string[]>;
  const size = (layers1?.length ?? 0) * (layers2?.length ?? 0);
  const values = new Float32Array(size).fill(0.5);
  values[0] = 1;
  const [history, codes] = wireHistory([[40, 0.75, 0.03]], size, 1);
  const page = await ready({
    status: "done",
    focus: ["conv1", "patch_embed"],
    _matrix: new DataView(values.buffer),
    _stderr: new DataView(new Float32Array(size).fill(0.01).buffer),
    _history: codes,
    _snapshot: {
      header: {
        ...{ kind: "frame", seq: 3, epoch: 1, batch: 157, total: 157, examples: 9984 },
        ...{ skipped: 1, seconds: 131, rate: 0, max_stderr: 0.01, final: true },
        rows: layers1?.length,
        cols: layers2?.length,
      },
      history,
    },
  });
  await pause(200);
  expect(colorAt(page, 1, 1).slice(0, 3)).not.toEqual([0, 0, 0]);
  expect(text(page, ".cka-focus-value")).toBe("1.000");
  expect(text(page, ".cka-progress-line")).toBe(
    "157/157 batches \u00b7 9\u202f984 examples \u00b7 1 skipped \u00b7 02:11 \u00b7 mean 0.503 \u00b7 largest \u00b1\u202f0.010",
  );
  expect(text(page, ".cka-badge")).toBe("Done");
});

test("fewer layers are shown at once, and missing ones are announced", async () => {
  const page = await ready({ status: "running" });
  await live(page);
  page.model.put({ status: "done" });
  const boxOf = (label: string) =>
    page.element.querySelector<HTMLElement>(`[aria-label^='${label},'] .cka-box`);
  boxOf("layer1")?.click();
  expect(page.model.sentOf("layers").at(-1)?.layers1).not.toContain("layer1.0");
  const grid = page.element.querySelector("[role=grid]");
  expect(grid?.getAttribute("aria-rowcount")).toBe("9");
  expect(text(page, ".cka-missing-words")).toBe("");
  boxOf("bn1")?.click();
  expect(grid?.getAttribute("aria-rowcount")).toBe("10");
  expect(text(page, ".cka-missing-words")).toContain(
    "1 chosen layer is not computed yet",
  );
  point(page, 1, 3);
  await until(
    () => text(page, ".cka-read-facts").includes("Not computed yet: Run"),
    "the reason",
  );
  expect(text(page, ".cka-read-names")).toContain("bn1");
  expect(text(page, ".cka-legend")).toContain("not computed yet");
  expect(text(page, ".cka-primary")).toBe("Run 1 new layer");
  page.element.querySelector<HTMLElement>(".cka-primary")?.click();
  expect(page.model.sentOf("command").at(-1)?.name).toBe("run");
});

test("mirroring chooses the same names in the other tree, and undo reverts it", async () => {
  const tree = wireTree(vitColumns());
  const trees = { model1: tree, model2: tree };
  const page = await ready({ _trees: trees, layers1: [] });
  const names = () => page.element.querySelectorAll(".cka-tree-count")[0]?.textContent;
  expect(names()).toBe("0 of 115 layers");
  const [, second] = page.element.querySelectorAll<HTMLElement>(".cka-tree");
  second?.querySelector<HTMLElement>("[aria-label^='Mirror']")?.click();
  expect(names()).toBe("15 of 115 layers");
  expect(page.model.sentOf("layers")).toEqual([
    { kind: "layers", layers1: page.model.state.layers2 },
  ]);
  second?.querySelector<HTMLElement>("[aria-label^='Undo']")?.click();
  expect(page.model.sentOf("layers")).toHaveLength(2);
  expect(names()).toBe("0 of 115 layers");
});

test("60 frames a second of 200 x 200 leave the last one shown", async () => {
  const names = Array.from({ length: 200 }, (_, k) => `encoder.layer.${k}`);
  const page = await ready({
    layers1: names,
    layers2: names,
    _axes: { epoch: 1, layers1: names, layers2: names, notes: [] },
  });
  for (let seq = 1; seq <= 60; seq++) {
    feed(page, { seq });
    await pause(5);
  }
  await until(() => acks(page).at(-1)?.seq === 60, "the last frame is acknowledged");
  expect(text(page, ".cka-progress-line")).toContain("60/157 batches");
});

test("a model whose classes and names are markup shows them as text", async () => {
  const evil = "<img src=x onerror='globalThis.broken=1'>";
  const columns = vitColumns(3);
  const name = columns.name.map((own) => (own === "norm" ? evil : own));
  const layers2 = [evil, "head"];
  const base = makeModel().state;
  const page = await ready({
    _trees: {
      model1: (base._trees as { model1: unknown }).model1,
      model2: { ...columns, name },
    },
    layers2,
    _axes: { ...(base._axes as object), layers2 },
    _message: { kind: "error", text: evil },
  });
  await live(page);
  click(page, 1, 0);
  point(page, 1, 0);
  await until(() => text(page, ".cka-read-names").includes(evil), "the name as text");
  expect(deep(page.element, "img")).toBeNull();
  expect((globalThis as { broken?: number }).broken).toBeUndefined();
  expect(text(page, ".cka-message")).toContain(evil);
});

test("without a kernel the last state stays usable, and a message says so", async () => {
  const page = await ready();
  await live(page);
  page.element.querySelector<HTMLElement>(".cka-primary")?.click();
  const said = () => text(page, ".cka-message").includes("No answer from the kernel");
  await until(said, "the line");
  point(page, 2, 3);
  await until(() => text(page, ".cka-read-names").includes("layer1.1"), "the readout");
  click(page, 5, 7);
  expect(text(page, ".cka-row-caption")).toContain("layer3.0 of ResNet-18");
  expect(colorAt(page, 5, 7)[3]).toBe(255);
});

test("notes are one line until they are opened", async () => {
  const page = await ready();
  const axes = page.model.state._axes as object;
  const notes = [
    { text: "Some layers are left out.", grave: false },
    { text: "The batches are not random: rho = 5.", grave: true },
  ];
  page.model.put({ _axes: { ...axes, notes } });
  await live(page);
  const box = [...page.element.querySelectorAll<HTMLElement>(".cka-message")].at(-1);
  const paragraphs = [...(box?.querySelectorAll("p") ?? [])];
  const shown = () =>
    paragraphs.filter((p) => p.offsetHeight > 0).map((p) => p.textContent);
  expect(shown()).toEqual([notes[1]?.text]);
  const button = box?.querySelector("button");
  expect(button?.textContent).toBe("1 more");
  button?.click();
  expect(shown()).toEqual([notes[1]?.text, notes[0]?.text]);
});
