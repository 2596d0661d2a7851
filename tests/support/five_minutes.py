"""The cells of the notebook of the first five minutes, and scripts in its page."""

from .lab import CHARTS

MODELS = """
import copy, gc, threading, time, weakref
import torch
from torch.utils.data import DataLoader, default_collate
from transformers import ViTConfig, ViTModel

torch.set_num_threads(1)
torch.manual_seed(0)
config = ViTConfig(
    hidden_size=16, num_hidden_layers=12, num_attention_heads=2,
    intermediate_size=32, image_size=16, patch_size=4,
)
base = ViTModel(config).eval()
tuned = copy.deepcopy(base)
with torch.no_grad():
    for parameter in tuned.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
images = [{"pixel_values": torch.randn(3, 16, 16)} for _ in range(16 * 500)]
images = 10 * images  # a run that does not end while she looks, however slowly

def slowly(examples):
    "Batches as a disk would give them."
    time.sleep(0.05)
    return default_collate(examples)

loader = DataLoader(images, 16, shuffle=True, collate_fn=slowly)
"""


EXPLORER = """
from cka_notebook import CKA, CKAExplorer, CKAResult
from cka_notebook._page import frames, history
from cka_notebook._widget import checks
checks.LONG_RUN = float("inf")  # it does not hold by itself, on a slow machine, too
history.HISTORY_SHARE = 1e9  # the map after each batch, on a slow machine, too
frames.gpu_memory = lambda device: [int(3.1 * 2**30), 80 * 2**30]  # as on a GPU
ex = CKAExplorer(base, tuned, loader)
ex
"""


CHOSEN = """
import json
print(json.dumps([ex.layers1, ex.layers2]))
"""


CODE = """
call = ex.code.replace("compare(loader", "compare(few, progress=False")
few = [default_collate(images[i:i + 16]) for i in (0, 16)]
again = eval(call, {"CKA": CKA, "model1": base, "model2": tuned, "few": few})
print(list(again.layers1) == ex.layers1, list(again.layers2) == ex.layers2)
print(json.dumps([ex.code, ex.stop_when_stable]))
"""


RESULT = """
r = ex.wait(90)
r.save("tuned.safetensors")
kept = CKAResult.load("tuned.safetensors")
print(torch.equal(kept.matrix, r.matrix), kept.layers1 == r.layers1)
print(r.to_dataframe().round(2).shape == r.matrix.shape, r.provenance["torch"])
ex.save_html("for_supervisor.html")
print(json.dumps(r.matrix.tolist()))
"""


RUNS = """
def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())

engines = [t for t in threading.enumerate() if t.name == "cka-engine"]
print(len(engines), old.status, hooks(base) <= len(ex.layers1))
"""


CALM = """
ex.stop()
ex.wait(90)
calm = CKAExplorer(base, tuned, loader, autostart=False, stop_when_stable=0.001)
calm
"""


BLOCKING = """
calm.run(block=True)
"""


INTERRUPTED = """
print(calm.status, 0 < calm.result.batches < 5000, hooks(base), hooks(tuned))
"""


FREED = """
models = weakref.ref(base), weakref.ref(tuned)
del base, tuned
gc.collect()
print([model() for model in models], ex.result.matrix.shape)
"""


CELLS = (
    MODELS,
    EXPLORER,
    "",
    CHOSEN,
    CODE,
    RESULT,
    "ex",
    "old = ex",
    RUNS,
    CALM,
    BLOCKING,
    INTERRUPTED,
    FREED,
)


SHOWN, TYPED, CHOICE, COPY, KEPT, LAST, OLD, AGAIN, HELD, BLOCK, AFTER, GONE = range(
    1, 13
)


TREND = f"""async () => {{
  const {{ view }} = await ({CHARTS})();
  const data = (name) => view.model.document.get_model_by_name(name).data;
  return {{ y: [...data("row_source").y], band: [...data("row_band_source").ys[0]] }};
}}"""


PLACE = f"""async ([row, col]) => {{
  const {{ view }} = await ({CHARTS})();
  const box = view.el.getBoundingClientRect();
  const {{ x_scale, y_scale }} = view.frame;
  return [box.left + x_scale.compute(col + 0.5), box.top + y_scale.compute(row + 0.5)];
}}"""


# What an element says is kept, for it may be gone before anybody looks.
LISTEN_TO = """(element) => {
  const said = (window.said = []);
  const note = () => said.push(element.textContent.trim());
  const options = { characterData: true, childList: true, subtree: true };
  new MutationObserver(note).observe(element, options);
}"""


TYPE_INTO = """async (index) => {
  const app = window.jupyterapp;
  app.shell.currentWidget.content.activeCellIndex = index;
  await app.commands.execute("notebook:enter-edit-mode");
}"""


IS_TYPED_INTO = """(index) => {
  const cell = window.jupyterapp.shell.currentWidget.content.widgets[index];
  return cell.node.contains(document.activeElement);
}"""


RUN_WITHOUT_WAITING = """(index) => {
  const app = window.jupyterapp;
  app.shell.currentWidget.content.activeCellIndex = index;
  void app.commands.execute("notebook:run-cell");
}"""
