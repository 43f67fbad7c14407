"""One strategy per file: the folder listing is the registry."""
