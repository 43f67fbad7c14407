"""Where datasets come from (and, later, go to)."""
