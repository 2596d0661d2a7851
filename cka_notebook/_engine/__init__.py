"""Both models in step over one loader: a generator of run states."""
