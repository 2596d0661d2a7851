"""Long tests, run by hand: ``python -m tests.soak [PART ...] [--minutes N]``.

Each part is a module of this folder with ``main(count, seed)``, which returns figures
by name and raises if anything is wrong. With ``--minutes`` the parts take turns, a few
tries each, until the time is over; else each makes ``--count`` tries.
"""

import argparse
import importlib
import pkgutil
import sys
import time
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

ROUND = 25
"""Tries of a part before it is another's turn."""


def parts():
    """Names of the parts."""
    names = [
        module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    ]
    return sorted(name for name in names if not name.startswith("_"))


def added(total, figures):
    """The figures of several rounds: numbers add up, but the longest time counts."""
    for key, value in figures.items():
        known = total.get(key)
        if isinstance(value, float):
            total[key] = value if known is None else max(known, value)
        elif isinstance(value, int):
            total[key] = value + (known or 0)
        else:
            total[key] = value
    return total


def main():
    """Run the parts, and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("parts", nargs="*", default=parts(), metavar="PART")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--count", type=int, default=ROUND)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    modules = {name: importlib.import_module(f"soak.{name}") for name in options.parts}
    totals = {name: {} for name in modules}
    end = time.monotonic() + 60 * (options.minutes or 0)
    for seed in count(options.seed):
        for name, module in modules.items():
            added(totals[name], module.main(options.count, seed))
            print(f"{name}, seed {seed}: {totals[name]}", flush=True)  # noqa: T201
        if time.monotonic() >= end:
            return


if __name__ == "__main__":
    main()
