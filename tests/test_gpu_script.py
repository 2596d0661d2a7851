"""The script for a GPU runs, here without one, and survives what fails in it."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from benchmark.gpu import __main__ as script
from benchmark.gpu import tables, trace, waits
from benchmark.gpu.record import AbsentError, DeviceLostError, Recorder

ROOT = Path(__file__).parents[1]

BARE = """
import sys
from importlib import metadata

version_of = metadata.version

def version(name):
    if name == "cka-notebook":
        raise metadata.PackageNotFoundError(name)
    return version_of(name)

metadata.version = version
missing = ["anywidget", "bokeh", "ipywidgets", "matplotlib", "nbformat", "pandas"]
sys.modules.update(dict.fromkeys(missing))
"""
"""A machine with torch and a checkout of this repository, and not much else."""


@pytest.mark.slow
def test_a_bare_machine_runs_it_and_gets_a_table(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BARE)
    paths = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    out = tmp_path / "out"
    command = ["bash", ROOT / "tests" / "gpu", "--quick", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--only", "tests", "waits", "--seconds", "300", "--", out],
        env=paths,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "gpu.json").read_text())
    assert {part["outcome"] for part in report["parts"].values()} == {"passed"}
    assert (out / "table.txt").read_text().strip() in done.stdout
    names = {line["name"] for line in report["parts"]["waits"]["lines"]}
    assert names == {f"waits: {mode}" for mode in waits.MODES}


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path / "lines.jsonl", "cpu", quick=True, seconds=60)


def lines(recorder):
    return script.lines_of(recorder._path)


def fail(error):
    raise error


@pytest.mark.slow
def test_what_fails_is_written_down_and_the_rest_goes_on(recorder):
    recorder.attempt("first", fail, ValueError("no\nmore"))
    recorder.attempt("peer", fail, RuntimeError("out of memory"), optional=True)
    recorder.attempt("kernel", fail, AbsentError("no Triton"))
    recorder.attempt("last", recorder.line, "last", "2 x 3")
    assert lines(recorder) == [
        {"name": "first", "shape": "", "failed": "ValueError: no"},
        {"name": "peer", "shape": "", "absent": "RuntimeError: out of memory"},
        {"name": "kernel", "shape": "", "absent": "no Triton"},
        {"name": "last", "shape": "2 x 3"},
    ]
    assert recorder.failures == 1


def test_what_no_longer_fits_is_skipped(recorder):
    recorder.attempt("long", fail, ValueError(), needs=1e6)
    assert "skipped" in lines(recorder)[0]
    assert recorder.failures == 0


def test_nothing_is_tried_on_a_device_that_is_lost(recorder):
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(DeviceLostError):
        recorder.attempt("first", fail, error)


def test_a_line_that_was_cut_off_costs_no_other(tmp_path):
    (tmp_path / "part.jsonl").write_text('{"name": "a"}\n{"name": "b", "ms')
    assert script.lines_of(tmp_path / "part.jsonl") == [{"name": "a"}]


@pytest.mark.slow
def test_a_part_that_does_not_end_is_ended_and_fails(tmp_path, monkeypatch):
    endless = tmp_path / "python"
    endless.write_text("#!/bin/sh\nexec sleep 60\n")
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))
    monkeypatch.setattr(script, "GRACE", 0.5)
    options = script.parser().parse_args(["--device", "cpu"])
    part = script.run_part(options, tmp_path, "waits", 0.5, 60.0)
    assert part["failed"]
    assert "ended after 1 s" in part["outcome"]


def test_a_trace_is_summed_up_by_phase():
    def event(cat, name, ts, dur, **args):
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur} | {
            "tid": args.pop("tid", 1),
            "args": args,
        }

    found = trace.summarize(
        [
            event("user_annotation", "Gram products", 100, 50),
            event("user_annotation", "step of another", 100, 500),
            event("cuda_runtime", "cudaLaunchKernel", 10, 5, correlation=1),
            event("cuda_runtime", "cudaLaunchKernel", 110, 5, correlation=2),
            event("cuda_driver", "cuLaunchKernelEx", 120, 5, correlation=3),
            event("cuda_runtime", "cudaLaunchKernel", 120, 5, correlation=4, tid=2),
            event("kernel", "conv", 1000, 400, correlation=1, tid=7),
            event("kernel", "mm", 1300, 200, correlation=2, tid=7),
            event("kernel", "mm", 1600, 100, correlation=3, tid=7),
            event("gpu_memcpy", "copy", 1800, 200, correlation=4, tid=7),
            {"ph": "M", "name": "process_name"},
        ],
        ["Gram products"],
    )
    assert found.launches == 4
    assert (found.wall, found.busy) == pytest.approx((1.0, 0.8))
    assert found.device == pytest.approx(
        {"forward and rest": 0.6, "Gram products": 0.3}
    )
    assert found.counts == {"forward and rest": 2, "Gram products": 2}
    assert found.host == pytest.approx({"Gram products": 0.05})
    assert found.kernels[0][:2] == ("conv", 1)
    assert "idle 0.200 ms" in found.text()


def test_waits_are_counted_by_where_they_are():
    with waits._noting_waits("cpu") as places:
        for _ in range(2):
            warnings.warn(waits.TEXT, stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert len(places) == 2
    assert places[0].startswith("test_gpu_script.py:")


def test_the_table_names_the_fastest_product_that_is_exact():
    products = [
        {"name": f"product: {name}", "shape": "256 x 512", "ms_median": ms, "err": err}
        for name, ms, err in (
            ("float32", 3, 1e-7),
            ("TF32", 1, 1e-5),
            ("fused", 2, 1e-6),
        )
    ]
    part = {"outcome": "passed", "seconds": 1.0, "lines": products}
    text = tables.text({"parts": {"operations": part}})
    assert "256 x 512    3        1     2      fused" in text
