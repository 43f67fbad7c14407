"""Measurements that stand in RESULTS.md; each prints what it found."""
