"""Measure ours and its peers: ``python -m tests.benchmark --help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmark.cli import main

if __name__ == "__main__":
    main(sys.argv[1:])
