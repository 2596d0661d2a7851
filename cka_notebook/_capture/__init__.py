"""Turns one forward pass into Gram matrices, and keeps nothing else of it."""
