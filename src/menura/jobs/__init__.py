"""Batches that survive: what was done is written down, and the same command does only what is missing."""
