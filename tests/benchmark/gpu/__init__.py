"""What only a GPU can answer, measured in one call; run ``bash tests/gpu --help``."""
