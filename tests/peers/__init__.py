"""Other CKA packages on the same models; run ``python -m tests.peers``."""
