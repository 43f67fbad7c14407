"""Second, slow, obvious implementations: Python loops in float64, written from the papers and not from the package."""
