"""Data sources, networks, pruning and training for the two studies (see README)."""
