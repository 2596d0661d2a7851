"""One forward pass becomes Gram matrices; nothing else of it is kept."""
