"""Time, memory and error of CKA beside its peers; run ``python -m tests.benchmark``."""
