"""The finished matrix: save, load, merge, subtract, match."""
