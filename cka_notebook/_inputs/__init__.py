"""A batch of any shape becomes a call of a model; activations become features."""
