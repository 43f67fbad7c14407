"""One score per file: the folder listing is the registry. How to add one stands in the README."""
