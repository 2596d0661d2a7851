"""Reads thousands of damaged and hostile files.

``python -m tests.soak files --count 10000`` ends with an error if a file gives any
other error than a ValueError that names it, takes long, or, although it has a checksum,
is read with other content than was written.
"""

import hashlib
import io
import json
import pickle
import random
import resource
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from cka_notebook import CKA, CKAResult
from cka_notebook._messages import Note

SECONDS = 10.0
"""More time of the processor for one file is a failure."""

CHECKPOINT = "checkpoint"

HOSTILE = (
    *(None, True, False, -1, 0, 1.5, -0.0, 2**53, 10**30, 10**400),
    *(float("nan"), float("inf"), float("-inf")),
    *("", "3", "nan", "F64", "F65", "\ud800", "\0", "a\nb", "../../x", "x" * 10**5),
    *([], [[]], {}, [None], [1, 2], ["a"], ["a", 1], {"a": 1}, {"": ""}, {"a": None}),
    *([-1, 2], [2**62, 2**62], [0, 2**53], [10**400], [1e300], ["2", "2"], [True]),
)


def bases(folder):
    """Whole files of all kinds, by name, with the outcome expected of each."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    batches = list(torch.randn(4, 8, 4))

    def compare(**options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cka = CKA(model, model1_layers="all")
            return cka.compare(batches, progress=False, **options)

    result = compare()
    result.notes.append(Note("not random", grave=True))
    result.undefined1["0"] = "words"
    result.save(folder / "result")
    (result - result).save(folder / "difference")
    compare(checkpoint=folder / CHECKPOINT, max_batches=2)
    for name in ("result", CHECKPOINT):
        old = unsigned((folder / name).read_bytes())
        (folder / f"old {name}").write_bytes(old)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    return whole, compare


def split(content):
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(head, data, *, signed=True):
    """A file of this header; with a true checksum if it is signed."""
    metadata = head.get("__metadata__")
    if signed and isinstance(metadata, dict):
        rest = {k: v for k, v in metadata.items() if k != "sha256"}
        head = {"__metadata__": {}} | head
        head["__metadata__"] = {"sha256": "0" * 64} | rest
    text = json.dumps(head).encode("utf-8", "surrogatepass")
    content = len(text).to_bytes(8, "little") + text + data
    if signed:
        digest = hashlib.sha256(content).hexdigest().encode()
        content = content.replace(b"0" * 64, digest, 1)
    return content


def unsigned(content):
    """The same file as written before there were checksums."""
    head, data = split(content)
    del head["__metadata__"]["sha256"]
    return joined(head, data, signed=False)


# Each of these returns the content of a damaged file, or of a hostile one with a true
# checksum, from a whole one.


def truncated(content, draw):
    return content[: draw.randrange(len(content))]


def flipped(content, draw):
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 50))):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def spliced(content, draw):
    """Some bytes more, fewer, or zero."""
    at, count = draw.randrange(len(content)), draw.choice((1, 8, 4096))
    new = draw.choice((b"", bytes(count), draw.randbytes(count)))
    return content[:at] + new + content[at + draw.choice((0, count)) :]


def another_length(content, draw):
    length = draw.choice((0, 1, 2**24, 2**40, 2**63, 2**64 - 1, draw.randrange(5000)))
    return length.to_bytes(8, "little") + content[8:]


def another_value(content, draw):
    """A hostile value somewhere in the header or in the facts."""
    head, data = split(content)
    entry = draw.choice((None, None, "json", "later"))
    facts = head["__metadata__"].get(entry)
    tree = head if facts is None else json.loads(facts)
    places = list(walk(tree))
    for _ in range(draw.choice((1, 1, 3))):
        where, key = draw.choice(places)
        change(where, key, draw)
    if facts is not None:
        head["__metadata__"][entry] = json.dumps(tree)
    return joined(head, data, signed=draw.random() < 0.7)


def walk(tree):
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from walk(value)


def change(where, key, draw):
    is_there = key in where if isinstance(where, dict) else key < len(where)
    if not is_there:
        return
    way = draw.randrange(5)
    if way == 0:
        del where[key]
    elif way == 1 and isinstance(where, dict):
        where[draw.choice(("", "x", "matrix", "json", "é"))] = where.pop(key)
    elif way == 2 and isinstance(where[key], list):
        where[key].append(where[key][0] if where[key] else 1)
    elif way == 3 and type(where[key]) is int:
        where[key] += draw.choice((-1, 1, 8, -100))
    else:
        where[key] = draw.choice(HOSTILE)


def another_number(content, draw):
    """Negative, infinite or undefined numbers in the tensors."""
    head, data = split(content)
    values = bytearray(data)
    numbers = torch.frombuffer(values, dtype=torch.uint8)
    at = draw.randrange(len(data) // 8) * 8
    number = draw.choice((-1.0, float("nan"), float("inf"), 1e308, 3.0, 1e9))
    new = torch.tensor([number], dtype=torch.float64).view(torch.uint8)
    numbers[at : at + 8] = new
    return joined(head, bytes(values))


def many_or_deep(content, draw):
    head, data = split(content)
    facts = json.loads(head["__metadata__"]["json"])
    count = draw.choice((10**4, 10**5, 10**6)) if draw.random() < 0.1 else 3000
    kind = draw.randrange(6)
    if kind == 0:
        facts[draw.choice(list(facts))] = {str(i): i for i in range(count)}
    elif kind == 1:
        facts[draw.choice(list(facts))] = [str(i) for i in range(count)]
    elif kind == 2:
        entry = {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}
        head |= {str(i): entry for i in range(count)}
    text = json.dumps(facts)
    if kind == 3:
        text = text[:-1] + ', "deep": ' + "[" * count + "]" * count + "}"
    elif kind == 4:
        text = text[:-1] + ', "name1": "once more"}'
    elif kind == 5:
        text = text[:-1] + ', "metric": "' + '\\"' * count
    head["__metadata__"]["json"] = text
    return joined(head, data)


def another_version(content, draw):
    head, data = split(content)
    version = draw.choice(
        ("2", "3", "9" * 5000, "0", "-1", "x", "", "1.5", "²", "\u0661")
    )
    name = draw.choice(("cka_notebook.result", "cka_notebook.checkpoint", "", "x"))
    head["__metadata__"]["format"] = draw.choice((name, f"{name}/{version}"))
    return joined(head, data)


def another_kind(content, draw):
    """A file of another program."""
    archive, model = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data", content)
    torch.save({"a": torch.ones(2)}, model)
    plain = {"matrix": torch.ones(2, 2), "stderr": torch.ones(2, 2)}
    return draw.choice(
        (
            *(b"", b"{}", b"words\n" * 9, b"\x1f\x8b" + content, b"\x89PNG\r\n" * 5),
            *(pickle.dumps({"a": 1}), archive.getvalue(), model.getvalue()),
            *(bytes(100), bytes(8), b"\xff" * 100, draw.randbytes(1000)),
            *(save(plain), save(plain, {"format": "pt"}), save({})),
            *(b"\2" + bytes(7) + b"{}", b"\4" + bytes(7) + b"\xff\xfe[]", b"[]"),
        )
    )


WAYS = (
    truncated,
    flipped,
    spliced,
    another_length,
    another_value,
    another_value,
    another_value,
    another_number,
    many_or_deep,
    another_version,
    another_kind,
)


def use(result, folder):
    """What a reader does with a result that was loaded; it must have no surprise."""
    assert result.matrix.shape == (len(result.layers1), len(result.layers2))
    repr(result), result.best_matches(), result.best_path(), result.export()
    assert result.floor.shape == result.matrix.shape
    if result.sums is not None:
        result.merge(result)
    result.save(folder / "again")
    again = CKAResult.load(folder / "again")
    assert torch.equal(again.matrix.view(torch.uint8), result.matrix.view(torch.uint8))


def trial(number, whole, compare, folder, draw):
    """The way of damage, the outcome and the seconds of one file."""
    way = WAYS[number % len(WAYS)]
    name = draw.choice(list(whole))
    damaged = way(whole[name], draw)
    path = folder / f"{number}.file"
    path.write_bytes(damaged)
    has_checksum = not name.startswith("old") and way in (truncated, flipped, spliced)
    start = time.process_time()
    try:
        if CHECKPOINT in name:
            compare(checkpoint=path)
        else:
            use(CKAResult.load(path), folder)
        came = "accepted"
        if has_checksum and damaged != whole[name]:
            came = "unclear: damage was not noticed"
    except ValueError as error:
        came = verdict(str(error), path)
    except BaseException as error:
        came = f"unclear: {type(error).__name__}: {str(error)[:300]}"
    seconds = time.process_time() - start
    path.unlink()
    return f"{way.__name__} of {name}", came, seconds


def verdict(text, path):
    is_refused = text.startswith("Expected a file of format") and str(path) in text
    is_other = f"Expected checkpoint {str(path)!r} to belong" in text
    is_clear = (is_refused and len(text) < 1000) or is_other
    return "clear" if is_clear else f"unclear: {text[:300]}"


def main(count, seed):
    """Try ``count`` files; figures of what came of them.

    Raises:
        AssertionError: If the outcome of one was unclear, or it took too long.
    """
    draw, came, slowest = random.Random(seed), Counter(), 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bases").mkdir()
        whole, compare = bases(folder / "bases")
        for number in range(count):
            what, outcome, seconds = trial(number, whole, compare, folder, draw)
            kind = outcome.split(":")[0]
            assert kind != "unclear", f"{number} of seed {seed}, {what}: {outcome}"
            assert seconds < SECONDS, f"{number} of seed {seed}, {what}: {seconds} s"
            came[kind] += 1
            slowest = max(slowest, seconds)
        left = {path.name for path in folder.iterdir()} - {"bases", "again"}
        assert not left
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"files": count, **came, "longest in s": slowest, "peak in MB": peak}
