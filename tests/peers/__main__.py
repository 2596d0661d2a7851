"""Run torch_cka, simtorch and pytorch-cka beside ours: ``python -m tests.peers``.

``--readme`` puts the table into README.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from peers.table import main

if __name__ == "__main__":
    main(sys.argv[1:])
