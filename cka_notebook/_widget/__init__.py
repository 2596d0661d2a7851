"""The explorer, its thread and its messages."""
