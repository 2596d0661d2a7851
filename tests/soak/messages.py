"""Sends random messages to an explorer, as a broken or hostile page would.

``python -m tests.soak messages --count 12000`` ends with an error if one of them kills
a thread, or changes anything without having the right form.
"""

import math
import random
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cka_notebook import CKAExplorer
from cka_notebook._widget.mailbox import CHOICES

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = (
    *("ready", "ack", "command", "layers", "focus", "view", "tolerance"),
    *("need_code", "hello", "", "frame", "run", "set_state"),
)
"""Those that a page sends, and others, such as those of older protocols.

Not ``need_bokeh``, which is answered by much data.
"""

FIELDS = (*CHOICES, "name", "value", "page", "views", "epoch", "seq", "theme", "status")

RIGHT: tuple[dict[str, Any], ...] = (
    {"kind": "ready", "page": "p", "views": 1},
    {"kind": "ack", "page": "p", "views": 1, "epoch": 1, "seq": 1},
    *({"kind": "command", "name": name} for name in ("pause", "resume", "restart")),
    *({"kind": "layers", "layers1": names} for names in (["0"], ["2", "1"], [])),
    {"kind": "layers", "layers1": ["0", "1"], "layers2": ["2"]},
    *({"kind": "focus", "focus": pair} for pair in (["0", "2"], None)),
    *({"kind": "view", "palette": name} for name in ("greys", "magma")),
    *({"kind": "view", "color_range": limits} for limits in ("fit", [0, 0.5])),
    *({"kind": "tolerance", "value": number} for number in (None, 1e-9)),
)
"""What a page sends; fuzzed in one field, most are refused."""

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 0.5, True, False, math.inf, -math.inf, math.nan),
    *(10**400, -(10**400), 1e308, 5e-324, 2**63, 1.5),
)

TEXTS = (
    *("", "0", "1", "2", "all", "fit", "cka", "greys", "*", "[", "a" * 5000),
    *("<img src=x onerror=alert(1)>", "\ud800", "\x00", "re:(a+)+$", "pause", "stop"),
)

WATCHED = (*CHOICES, "stop_when_stable", "theme", "_meta", "_key", "_protocol")
"""Traits that only messages of the right form may change, if any."""


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any value that JSON has, and some that only Python has."""
    makers: list[Callable[[], Any]] = [
        lambda: rng.choice(NUMBERS),
        lambda: rng.choice(TEXTS),
        lambda: None,
        lambda: rng.choice([b"\xff", object(), {1, 2}]),
    ]
    if depth < 3:
        size = rng.choice([0, 1, 2, 2, 3, 3000 if depth == 0 else 4])
        makers += [
            lambda: [value(rng, depth + 1) for _ in range(size)],
            lambda: {rng.choice(FIELDS): value(rng, depth + 1) for _ in range(3)},
        ]
    return rng.choice(makers)()


def message(rng: random.Random) -> Any:
    """A message with random fields, of which some may fit its kind."""
    if rng.random() < 0.05:
        return value(rng)
    if rng.random() < 0.4:
        fuzzed = {rng.choice(FIELDS): value(rng)} if rng.random() < 0.5 else {}
        return rng.choice(RIGHT) | fuzzed
    kind = rng.choice(KINDS) if rng.random() < 0.95 else value(rng)
    names = rng.sample(FIELDS, rng.randrange(5))
    return {"kind": kind, **{name: value(rng) for name in names}}


def allowed(content: Any) -> set[str]:
    """The traits that a message of this kind may change, if their values are right."""
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind in ("layers", "focus", "view"):
        return set(CHOICES) & set(content)
    return {"stop_when_stable"} if kind == "tolerance" else set()


def is_right(explorer: CKAExplorer) -> bool:
    """Whether all choices have the form that they always have."""
    tolerance = explorer.stop_when_stable
    limits = explorer.color_range
    return (
        all(isinstance(x, str) for x in [*explorer.layers1, *explorer.layers2])
        and (tolerance is None or 0 < tolerance < math.inf)
        and (limits == "fit" or (len(limits) == 2 and limits[0] < limits[1]))
        and explorer.metric == "cka"
    )


def state_of(explorer: CKAExplorer) -> dict[str, str]:
    """The watched traits, in a form that can be compared."""
    return {name: repr(getattr(explorer, name)) for name in WATCHED}


class Line:
    """Delivers messages to an explorer, and waits until each has been handled."""

    def __init__(self, explorer: CKAExplorer) -> None:
        self._messages, self._handled = explorer._messages, threading.Event()
        self._mailbox = self._messages._mailbox
        self._handle, self._mailbox._handle = self._mailbox._handle, self._take

    def deliver(self, content: Any) -> None:
        """Let one message arrive."""
        self._messages.receive(content)
        self._handled.clear()
        self._mailbox.put({"kind": self})
        if not self._handled.wait(60):
            raise AssertionError("the mailbox is deaf")

    def _take(self, content: Any) -> None:
        if content.get("kind") is self:
            self._handled.set()
        else:
            self._handle(content)


def main(count: int, seed: int = 0) -> dict[str, int]:
    """Send ``count`` messages to an explorer in a run, and count the outcomes.

    Raises:
        AssertionError: If one does what none may do.
    """
    rng, seen = random.Random(seed), Counter[str]()
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    loader = [torch.randn(12, 6) for _ in range(50)]
    explorer = CKAExplorer(model, None, loader, model1_layers="all")
    line = Line(explorer)
    for number in range(count):
        explorer._session.say("", "")
        before, content = state_of(explorer), message(rng)
        line.deliver(content)
        after = state_of(explorer)
        changed = {name for name in WATCHED if before[name] != after[name]}
        if not (changed <= allowed(content) and is_right(explorer)):
            how = {name: (before[name], after[name]) for name in changed}
            msg = f"message {number} of seed {seed}, {content!r}, changed {how}"
            raise AssertionError(msg)
        is_refused = explorer._message["kind"] == "error"
        seen["changed" if changed else "refused" if is_refused else "obeyed"] += 1
    # A page may have taken all layers away, which no run can compare.
    explorer.layers1 = explorer.layers2 = ["0", "2"]
    explorer._session.restart()
    result = explorer.wait(60)
    if result is None or result.batches != len(loader):
        raise AssertionError("the run is not whole")
    explorer.close()
    return {"tries": count, **seen}
