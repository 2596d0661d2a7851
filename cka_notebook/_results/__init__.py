"""Finished matrices: save, load, merge, subtract and match them."""
