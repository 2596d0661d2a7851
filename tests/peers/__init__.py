"""What other CKA packages make of the same models; run ``python -m tests.peers``."""
