"""Between a run and its page: frames, histories, and the rate of sending them."""
