"""Comparisons with other implementations, measured side by side; see `make benchmark`."""
