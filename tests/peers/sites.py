"""Installs and imports the peers, each in its own folder, ignored by git."""

import importlib
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "peers"

PEERS = {
    "torch_cka": "torch_cka==0.21",
    "simtorch": "simtorch==0.2.1",
    "pytorch-cka": "pytorch-cka==1.1.3",
}
"""Name of each peer, and its release on PyPI."""

EXTRAS = {"simtorch": ["seaborn==0.13.2"]}
"""What a peer imports besides torch, numpy, matplotlib and tqdm."""

PLOTTING = ("matplotlib", "matplotlib.pyplot", "mpl_toolkits", "seaborn")


def installed(peer: str) -> bool:
    """Whether this peer is installed."""
    return (FOLDER / peer).is_dir()


def install() -> None:
    """Install missing peers; they use the torch of this environment."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    constraints = ["--constraint", str(ROOT / "binder" / "constraints.txt")]
    for peer, release in PEERS.items():
        if not installed(peer):
            target = ["--target", str(FOLDER / peer)]
            wanted = [release, *EXTRAS.get(peer, [])]
            subprocess.run([*pip, *constraints, *target, *wanted], check=True)


def load(peer: str, module: str) -> types.ModuleType:
    """Import a module of a peer; only one peer per process."""
    sys.path.append(str(FOLDER / peer))
    if find_spec("matplotlib") is None:
        _replace_plotting()
    return importlib.import_module(module)


def _replace_plotting() -> None:
    """Let peers import their plotting code without Matplotlib."""
    for name in PLOTTING:
        module = types.ModuleType(name)
        module.__getattr__ = lambda attribute: attribute  # type: ignore[method-assign]
        sys.modules[name] = module
