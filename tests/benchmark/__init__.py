"""Time, memory and error of ours and its peers; run ``python -m tests.benchmark``."""
