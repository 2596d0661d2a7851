"""Compare torch_cka, simtorch and pytorch-cka with ours: ``python -m tests.peers``.

``--readme`` writes the table to ``tests/peers/README.md`` and README.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from peers.table import main

if __name__ == "__main__":
    main(sys.argv[1:])
