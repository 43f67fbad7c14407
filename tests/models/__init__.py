"""Models as people use them: every family of a library, built small and without weights."""
