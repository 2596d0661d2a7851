"""What tests share: models, references, doubles, and a browser in a JupyterLab."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
