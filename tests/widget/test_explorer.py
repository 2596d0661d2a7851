"""The widget without a browser: a recording comm plays the page."""

import base64
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import traitlets
from support import ROOT, TESTS, wire_examples
from support.doubles import Gate, batches, floats, make, net, pause_midway, until
from torch import nn

from cka_notebook import CKAExplorer, CKAResult, _figures
from cka_notebook._figures.png import png
from cka_notebook._page.runtime import Runtime, page_code
from cka_notebook._widget.explorer import PROTOCOL

WIRE = TESTS / "wire"


# Wire files


@pytest.mark.parametrize("name", sorted(path.stem for path in WIRE.glob("*.json")))
def test_the_golden_wire_files_are_what_the_kernel_sends(name):
    made = wire_examples.examples()[name]
    path = WIRE / f"{name}.json"
    if os.environ.get("CKA_NOTEBOOK_WRITE_WIRE"):
        text = json.dumps(made, indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == made


def test_both_halves_have_the_same_protocol():
    page = ROOT / "js" / "src" / "protocol.ts"
    assert f"PROTOCOL = {PROTOCOL};" in page.read_text(encoding="utf-8")


def test_the_kernel_understands_every_golden_message_of_the_page():
    torch.manual_seed(0)
    explorer = CKAExplorer(
        wire_examples.SmallNet(), wire_examples.OddNet(), [torch.randn(8, 3, 8, 8)],
        autostart=False,
    )  # fmt: skip
    explorer.run(block=True)
    explorer._session.frames.publisher._seq = 9  # As many frames were sent.
    for message in wire_examples.FROM_PAGE:
        if message["kind"] != "command":
            explorer._messages.handle(message)
            assert explorer._message["kind"] != "error", explorer._message
    assert explorer.layers1 == list(wire_examples.LAYERS1)
    assert explorer.layers2 == list(wire_examples.LAYERS2)
    assert explorer.palette == "viridis"
    assert explorer.color_range == [0.25, 0.75]
    assert explorer.focus is None
    assert explorer.comm.custom("bokehjs")[0].buffers[0][:2] == b"\x1f\x8b"
    assert explorer.comm.custom("code")[0].content["code"] == page_code()


def test_every_name_of_a_synced_trait_is_known_to_the_page():
    source = ROOT / "js" / "src" / "protocol.ts"
    page = source.read_text(encoding="utf-8")
    explorer, _ = make()
    ours = {name for name in explorer.keys if name in CKAExplorer.__dict__}
    ours -= {"_esm", "_css"}
    missing = {name for name in ours if not re.search(rf"\b{name}\b", page)}
    assert missing == set()


# A run


def test_status_goes_from_idle_over_running_to_done():
    explorer, line = make()
    assert explorer.status == "idle"
    explorer.wait(60)
    assert line.values("status") == ["idle", "running", "done"]


def test_constructing_touches_no_data_and_shows_the_trees_at_once():
    loader = Gate(batches())
    explorer, _ = make(loader)
    assert loader.iterations == 0
    assert explorer._trees["model1"]["name"] == ["Sequential", "0", "1", "2", "3"]
    assert explorer.layers1 == ["0", "1", "2", "3"]
    assert explorer.result is None
    assert explorer.progress.batches == 0


def test_it_starts_when_it_is_shown_and_only_then():
    explorer, _ = make()
    data, _ = explorer._repr_mimebundle_()
    assert (
        data["text/plain"] == "CKAExplorer(Sequential A x Sequential B, 4 x 4 layers)"
    )
    assert "image/png" not in data
    until(lambda: explorer.status == "done")
    epoch = explorer._axes["epoch"]
    explorer._repr_mimebundle_()
    explorer.wait(60)
    assert explorer._axes["epoch"] == epoch, "showing it again does not start again"


def test_it_starts_in_another_widget_with_the_first_view_of_the_page():
    explorer, line = make()
    line.page({"kind": "ready", "page": "page-1", "views": 0})
    line.page({"kind": "view", "palette": "viridis"})
    until(lambda: explorer.palette == "viridis")
    assert explorer.status == "idle"
    line.page({"kind": "ready", "page": "page-1", "views": 1})
    until(lambda: explorer.status == "done")


def test_without_autostart_only_the_probe_runs_so_that_shapes_are_known():
    explorer, line = make(autostart=False)
    assert explorer._trees["model1"]["shape"][1] is None
    explorer._repr_mimebundle_()
    until(lambda: explorer._session.runs.live is None)
    assert explorer.status == "idle"
    assert explorer._trees["model1"]["shape"][1] == [None, 8]
    assert line.frames == []
    assert explorer.result is None
    assert explorer.wait(60).batches == 6


def test_a_loader_that_can_be_read_once_is_not_spent_on_a_probe():
    explorer, _ = make(iter(batches()), autostart=False)
    explorer._repr_mimebundle_()
    assert explorer._session.runs.live is None
    assert explorer.wait(60).batches == 6


def test_unknown_layers_are_refused_with_the_nearest():
    explorer, _ = make(model1_layers=None)
    with pytest.raises(traitlets.TraitError, match="contains 'headd'"):
        explorer.layers1 = ["headd"]
    explorer.wait(60)
    with pytest.raises(traitlets.TraitError, match="contains 'headd'"):
        explorer.layers1 = ["headd"]
    with pytest.raises(traitlets.TraitError, match="`focus` contains 'x'"):
        explorer.focus = ("0", "x")
    with pytest.raises(traitlets.TraitError, match="low < high, got"):
        explorer.color_range = [1, 0]
    with pytest.raises(traitlets.TraitError, match="low < high, got None"):
        explorer.color_range = None
    with pytest.raises(traitlets.TraitError, match="low < high, got"):
        explorer.color_range = [0, 10**400]
    for limits in (np.array([0.25, 0.75]), torch.tensor([0.25, 0.75])):
        explorer.color_range = limits
        assert explorer.color_range == [0.25, 0.75]
    with pytest.raises(traitlets.TraitError, match="one of \\['cka'"):
        explorer.metric = "rank"
    with pytest.raises(traitlets.TraitError, match="read-only"):
        explorer.status = "done"


# Choices, both ways


def test_layers_and_focus_go_both_ways():
    explorer, line = make()
    explorer.wait(60)
    explorer.focus = ("0", "2")
    assert line.values("focus")[-1] == ("0", "2")
    line.page({"kind": "focus", "focus": ["1", "3"]})
    until(lambda: explorer.focus == ("1", "3"))
    line.page({"kind": "layers", "layers1": ["0", "2"]})
    until(lambda: explorer.layers1 == ["0", "2"])
    explorer.layers2 = "leaves"
    assert line.values("layers2")[-1] == explorer.layers2


def test_whatever_chooses_layers_can_be_assigned():
    explorer, _ = make()
    explorer.layers1 = ["?"]
    assert explorer.layers1 == ["0", "1", "2", "3"]
    explorer.layers1 = nn.Linear
    assert explorer.layers1 == ["0", "2"]
    explorer.layers2 = re.compile("[01]")
    result = explorer.wait(60)
    assert result.layers1 == ("0", "2")
    assert result.layers2 == ("0", "1")


def test_a_tolerance_goes_both_ways():
    explorer, line = make(stop_when_stable=0.005)
    assert explorer.stop_when_stable == 0.005
    assert explorer.get_state()["stop_when_stable"] == 0.005
    explorer._messages.handle({"kind": "tolerance", "value": 0.25})
    assert explorer.stop_when_stable == explorer._session.tolerance == 0.25
    assert line.values("stop_when_stable")[-1] == 0.25
    explorer._messages.handle({"kind": "tolerance", "value": None})
    assert explorer.stop_when_stable is None
    with pytest.raises(traitlets.TraitError, match="a standard error above 0, got -1"):
        explorer.stop_when_stable = -1
    with pytest.raises(ValueError, match="a standard error above 0, got 0"):
        make(stop_when_stable=0)


# Pages that come and go


def test_two_explorers_share_one_model_that_carries_code_and_bokehjs(comms):
    first, _ = make()
    second, _ = make()
    assert first._runtime is second._runtime
    assert isinstance(first._runtime, Runtime)
    reference = f"IPY_MODEL_{first._runtime.model_id}"
    assert first.get_state("_runtime") == {"_runtime": reference}
    assert [len(c.values("gz")) for c in comms if c.values("gz")] == [1]
    assert [c.values("code") for c in comms if c.values("code")] == [[page_code()]]
    assert first._key != second._key


def test_the_figures_of_the_page_are_made_once_for_all_explorers():
    (first, _), (second, _) = make(), make()
    assert first._figure is second._figure


def test_no_comm_remembers_which_shell_has_sent_last():
    explorer, line = make()
    assert "_reply_subshell_id" not in vars(line), "after opening"
    explorer.palette = "greys"
    assert "_reply_subshell_id" not in vars(line), "after a trait"
    explorer.wait(60)
    assert "_reply_subshell_id" not in vars(line), "after a run"


def test_closing_stops_the_run_and_leaves_no_comm_open(comms):
    make()[0].close()
    shared = [c for c in comms if not c._closed]
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    loader.let(3)
    until(lambda: explorer.progress.batches == 3)
    explorer.close()
    loader.let(1)
    worker = explorer._session.runs._worker
    assert worker.wait(60)
    assert worker.outcome == "stopped"
    assert explorer.result.batches >= 3
    assert [c for c in comms if not c._closed] == shared


@pytest.mark.parametrize("stopped_at", [0, 2])
@pytest.mark.parametrize("others", [False, True])
def test_a_stopped_run_continues_from_its_checkpoint(
    tmp_path, monkeypatch, stopped_at, others
):
    """Or from the start, if other layers are chosen."""
    monkeypatch.setattr("cka_notebook._engine.checkpoint.SECONDS", 0.0)
    path = tmp_path / "run"
    explorer, _ = make(
        Gate(batches(4), open_=True),
        checkpoint=path,
        callback=lambda batch, *_: batch == stopped_at and explorer.stop(),
    )
    if stopped_at:
        explorer.run(block=True)
        assert explorer.result.batches == stopped_at
    else:  # Stopped before the first batch, as by an interrupt in the probe.
        explorer.observe(lambda _: explorer.stop(), "_axes")
        explorer.run(block=True)
        explorer.unobserve_all("_axes")
    before = path.read_bytes() if path.exists() else b""
    explorer._session.comparison.callback = None
    if others:
        explorer.layers1 = ["0"]
    explorer.run(block=True)
    assert (explorer.status, explorer.result.batches) == ("done", 4)
    assert (path.read_bytes() == before) == (others and bool(stopped_at))


# A result without models


@pytest.mark.usefixtures("comms")
def test_none_chooses_layers_automatically():
    explorer, _ = make()
    explorer.layers1 = ["0"]
    explorer.layers1 = None
    assert explorer.layers1 == CKAExplorer(net(), net(), batches()).layers1


def test_a_path_is_no_result_and_the_message_says_how_to_make_one(tmp_path):
    with pytest.raises(TypeError, match=r"CKAResult, got .*CKAResult\.load\(path\)"):
        CKAExplorer.from_result(str(tmp_path / "run.safetensors"))


def test_a_saved_result_is_shown_without_models(tmp_path):
    explorer, _ = make()
    result = explorer.wait(60)
    result.save(tmp_path / "run.safetensors")
    shown = CKAExplorer.from_result(CKAResult.load(tmp_path / "run.safetensors"))
    assert shown.status == "done"
    assert shown._matrix == explorer._matrix
    assert shown.layers1 == list(result.layers1)
    assert shown._trees["model1"]["name"][1:] == list(result.layers1)
    assert shown._trees["model1"]["type"][0] == "Sequential A"
    assert [e._meta["computes"] for e in (explorer, shown)] == [True, False]
    assert shown.wait(1) is shown.result
    assert torch.equal(shown.result.matrix, result.matrix)
    shown.focus = ("0", "1")
    shown.layers2 = ["1", "3"]
    with pytest.raises(RuntimeError, match="got a saved result"):
        shown.run()
    assert shown._repr_mimebundle_()[0]["image/png"]


def test_a_difference_is_shown_in_two_colors_around_0_and_repeats_no_call():
    explorer, _ = make()
    result = explorer.wait(60)
    less = replace(result, matrix=result.matrix + 0.25)
    shown = CKAExplorer.from_result(result - less)
    assert (shown.palette, shown.color_range) == ("puor", "fit")
    assert shown.metric == "cka difference"
    assert shown._meta["is_difference"]
    assert not explorer._meta["is_difference"]
    assert shown.code == ""
    colors = _figures.PALETTES["puor"]
    difference = (result - less).matrix.numpy()
    expected = png(difference, colors, (-0.25, 0.25), is_fallback=True)
    assert shown._preview().picture == expected
    exact = [replace(r, stderr=torch.zeros_like(r.stderr)) for r in (result, less)]
    exact_preview = CKAExplorer.from_result(exact[0] - exact[1])._preview()
    greyed = np.full(difference.shape, fill_value=True)
    assert exact_preview.picture == png(
        difference, colors, (-0.25, 0.25), greyed=greyed, is_fallback=True
    )


def test_the_picture_of_the_map_is_small_and_has_the_colors_of_its_values():
    explorer, _ = make()
    explorer.wait(60)
    data, _ = explorer._repr_mimebundle_()
    picture = base64.b64decode(data["image/png"])
    assert picture.startswith(b"\x89PNG")
    assert len(picture) <= 60_000
    assert "0x" not in data["text/plain"]
    assert "72 examples in 6 batches" in data["text/plain"]


# Saved pages


def scripts_of(page):
    pattern = r'<script type="[^"]+" id="(\w+)">(.*?)</script>'
    return dict(re.findall(pattern, page, re.DOTALL))


def test_the_saved_page_holds_everything_and_hostile_names_are_text(tmp_path):
    torch.manual_seed(0)
    explorer = CKAExplorer(
        wire_examples.SmallNet(), wire_examples.OddNet(), [torch.randn(8, 3, 8, 8)],
        model1_name=wire_examples.HOSTILE[1],
    )  # fmt: skip
    explorer.wait(60)
    path = tmp_path / "map.html"
    explorer.save_html(path)
    page = path.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img" not in page
    assert len(page) < 2_000_000
    state = json.loads(scripts_of(page)["state"])
    assert wire_examples.HOSTILE[1] in state["_trees"]["model2"]["name"]
    matrix = np.frombuffer(base64.b64decode(state["_matrix"]["base64,"]), "<f4")
    assert matrix.tobytes() == floats(explorer.result.matrix).tobytes()
    module = base64.b64decode(scripts_of(page)["module"]).decode()
    assert module == page_code()
    assert base64.b64decode(scripts_of(page)["bokehjs"])[:2] == b"\x1f\x8b"
    assert re.findall(r"<[^>]*(?:src|href)=", page) == []


@pytest.mark.parametrize(
    ("theme", "saved"), [("auto", "light"), ("light", "light"), ("dark", "dark")]
)
def test_a_saved_page_is_light_unless_dark_was_asked_for(tmp_path, theme, saved):
    result = wire_examples.result()
    explorer = CKAExplorer.from_result(result, theme=theme)
    explorer.save_html(tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert json.loads(scripts_of(page)["state"])["theme"] == saved
    assert f"color-scheme: {saved}; }}" in page
    assert explorer.theme == theme


def test_a_theme_reaches_the_page_and_an_unknown_one_is_refused_with_the_known():
    explorer, line = make(autostart=False, theme="dark")
    explorer.theme = "auto"
    assert line.values("theme") == ["dark", "auto"]
    known = r"'theme'.*\['auto', 'light', 'dark'\].*'blue'"
    with pytest.raises(traitlets.TraitError, match=known):
        explorer.theme = "blue"
    assert explorer.theme == "auto"
    with pytest.raises(traitlets.TraitError, match=known):
        make(theme="blue")


class Scans(torch.utils.data.Dataset):
    """A data set as people have them: files in folders, examples with names."""

    def __init__(self, root):
        self.root = root
        self.files = [f"{root}/patient-{k}.dcm" for k in range(12)]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return {"x": torch.full((6,), 0.123456 + index), "name": self.files[index]}


class OnScans(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        return self.body(x)


def test_files_and_code_name_the_class_of_the_data_but_contain_no_paths_or_samples(
    tmp_path,
):
    loader = torch.utils.data.DataLoader(Scans(tmp_path / "secret"), 6)
    explorer = CKAExplorer(
        OnScans(), None, loader, forward=lambda model, batch: model(batch["x"]),
        checkpoint=tmp_path / "secret.safetensors",
    )  # fmt: skip
    result = explorer.wait(60)
    assert result.provenance["loader1"]["dataset"] == "Scans"
    result.save(tmp_path / "result.safetensors")
    explorer.save_html(tmp_path / "page.html")
    saved = (tmp_path / "result.safetensors").read_bytes()
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    state = scripts_of(page)["state"].encode()
    checkpoint = (tmp_path / "secret.safetensors").read_bytes()
    for content in (saved, state, checkpoint, explorer.code.encode()):
        assert b"secret" not in content
        assert b"patient" not in content
        assert np.float32(0.123456).tobytes() not in content


def test_a_page_saved_during_a_run_shows_the_run_so_far(tmp_path):
    loader = Gate(batches(6))
    explorer, _ = make(loader)
    explorer.run()
    pause_midway(explorer, loader)
    explorer.save_html(tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text(encoding="utf-8")
    state = json.loads(scripts_of(page)["state"])
    assert state["status"] == "stopped"
    assert state["_snapshot"]["header"]["batch"] == explorer.progress.batches
    loader.let(20)
    explorer.resume()
    explorer.wait(60)


def test_the_picture_of_the_fallback_has_the_colors_of_the_page():
    explorer = CKAExplorer.from_result(wire_examples.result())
    matrix = wire_examples.MATRIX.numpy()
    assert np.nanmin(matrix) < 0
    explorer.color_range = "fit"
    limits = _figures.fitted_range(matrix)
    assert limits[0] == 0
    colors = _figures.PALETTES["magma"]
    assert explorer._preview().picture == png(matrix, colors, limits, is_fallback=True)
