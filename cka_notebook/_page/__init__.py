"""What goes to the page, and how fast."""
