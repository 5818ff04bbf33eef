"""Learning: the one training loop, weights on disk, work on several threads."""
