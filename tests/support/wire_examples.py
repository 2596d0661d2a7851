"""One example of every message between kernel and page, made by the package itself.

``tests/wire/*.json`` holds them; the tests of the page read the same files. To write
them again: ``CKA_NOTEBOOK_WRITE_WIRE=1 pytest tests/widget/test_explorer.py -k wire``.
"""

import base64
import contextlib
from types import SimpleNamespace
from unittest import mock

import torch
from torch import nn

from cka_notebook import CKA, CKAResult
from cka_notebook._engine.facts import NO_VARIANCE
from cka_notebook._page import frames
from cka_notebook._page.frames import Frames, axes, floats, live_frame
from cka_notebook._widget.comparison import Live
from cka_notebook._widget.source import with_layers

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>")
NAN = float("nan")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


class SmallNet(nn.Module):
    """Has a module that is called twice, a list, and a module that is never called."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.stem.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        x = self.act(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(self.act(x).mean((2, 3)))


class OddNet(nn.Module):
    """Has names that would be tags, were they not treated as text."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 3, padding=1)
        self.add_module(HOSTILE[0], nn.Conv2d(4, 4, 3, padding=1))
        self.add_module(HOSTILE[1], nn.Linear(4, 4))

    def forward(self, x):
        x = getattr(self, HOSTILE[0])(self.embed(x))
        return getattr(self, HOSTILE[1])(x.mean((2, 3)))


LAYERS1 = ("stem", "blocks.0", "blocks.1", "head")
LAYERS2 = ("embed", *HOSTILE)
MATRIX = torch.tensor(
    [[1, 0.75, 0.125], [0.5, 0.875, -0.0625], [NAN] * 3, [0.25, 0.375, 0.9375]],
    dtype=torch.float64,
)
STDERR = torch.tensor(
    [
        [0, 2**-5, 2**-4],
        [2**-6, 2**-7, 2**-3],
        [NAN] * 3,
        [2**-4, 2**-5, 2**-8],
    ],
    dtype=torch.float64,
)
NULL_SD = torch.where(MATRIX.isnan(), NAN, 2.0**-6).double()
UNDEFINED = {"blocks.1": NO_VARIANCE}
NOTES = ["1 batch of fewer than 4 examples left out."]


def pack(buffer):
    return base64.b64encode(buffer).decode()


def running(done, factor=1.0, examples=None):
    """A running state with values that float32 holds exactly."""
    return SimpleNamespace(
        done=done,
        catching_up=False,
        device=torch.device("cpu"),
        batches=done - 1,
        total=8,
        examples=examples if examples is not None else 16 * (done - 1),
        skipped=1,
        layers1=LAYERS1,
        layers2=LAYERS2,
        undefined1=UNDEFINED,
        undefined2={},
        notes=NOTES,
        matrix=lambda: MATRIX * factor,
        stderr=lambda: STDERR,
        floor=lambda: 3 * NULL_SD,
    )


def result():
    return CKAResult(
        MATRIX, STDERR, LAYERS1, LAYERS2, "SmallNet", "OddNet", examples=112, batches=7,
        skipped=1, notes=NOTES, undefined1=UNDEFINED, null_sd=NULL_SD,
    )  # fmt: skip


def trees():
    """Layer trees after a probe."""
    torch.manual_seed(0)
    cka = CKA(SmallNet(), OddNet())
    with contextlib.closing(cka._steps([torch.randn(8, 3, 8, 8)])) as steps:
        next(steps)
    return {f"model{i}": spec.tree.columns() for i, spec in enumerate(cka.specs, 1)}


def run():
    """The messages of a run of eight batches, some of which are pictured."""
    sent = []
    frames = Frames(lambda *given: sent.append(given), print)
    frames.begin(2, running(1))
    frames.publisher._seq = 6
    for done, factor in ((3, 0.5), (5, 0.75)):
        frames._history._not_before = 0.0
        frames.publisher._sent_at = float("-inf")
        frames.take(1.5, running(done, factor))
    history = frames.history_message()
    progress = frames.progress(2.25, running(8))
    snapshot = frames.publish(progress, result(), final=True)
    return sent, history, snapshot


def frame_in_codes(header):
    """A live frame, as it would be were its map a large one."""
    with mock.patch.object(frames, "LARGE_MAP", 0):
        maps = (floats(x) for x in (MATRIX, STDERR, 3 * NULL_SD))
        header, arrays = live_frame(header, *maps)
    return header, [array.tobytes() for array in arrays]


def examples():
    """All of them, by file name."""
    sent, history, snapshot = run()
    return {
        "trees": trees(),
        "axes": axes(2, running(8)),
        "frame": message(*sent[1]),
        "frame_in_codes": message(*frame_in_codes(sent[1][0])),
        "history": message(*history),
        "snapshot": {
            "snapshot": snapshot["_snapshot"],
            "matrix": pack(snapshot["_matrix"]),
            "stderr": pack(snapshot["_stderr"]),
            "history": pack(snapshot["_history"]),
        },
        "code": code(),
        "from_page": FROM_PAGE,
    }


def code():
    """The call around its layers, a choice of layers, and the call with them."""
    comparison = Live(SmallNet(), OddNet(), [], None, {"pool": "mean", "paired": True})
    parts = comparison.code("cka", 0.005)
    layers = list(LAYERS1), [*HOSTILE, 'a"\t\n\u00e9\u2028']
    whole = with_layers(parts, *layers)
    return {"parts": parts, "layers": list(layers), "code": whole}


def message(content, buffers):
    return {"message": content, "buffers": [pack(buffer) for buffer in buffers]}


FROM_PAGE = [
    {"kind": "ready", "page": "page-1", "views": 1},
    {"kind": "ack", "page": "page-1", "epoch": 2, "seq": 8, "views": 1},
    {"kind": "command", "name": "run"},
    {"kind": "command", "name": "pause"},
    {"kind": "command", "name": "resume"},
    {"kind": "command", "name": "stop"},
    {"kind": "command", "name": "restart"},
    {"kind": "layers", "layers1": ["stem", "head"]},
    {"kind": "layers", "layers1": list(LAYERS1), "layers2": list(LAYERS2)},
    {"kind": "focus", "focus": ["blocks.0", HOSTILE[1]]},
    {"kind": "focus", "focus": None},
    {"kind": "view", "palette": "viridis"},
    {"kind": "view", "color_range": "fit"},
    {"kind": "view", "color_range": [0.25, 0.75]},
    {"kind": "view", "metric": "cka"},
    {"kind": "tolerance", "value": 0.005},
    {"kind": "tolerance", "value": None},
    {"kind": "need_bokeh", "version": "3.9.2"},
    {"kind": "need_code"},
]
