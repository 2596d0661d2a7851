"""What a model consists of, and which of its layers are chosen."""
