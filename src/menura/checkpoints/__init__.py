"""Reads and writes the files that networks come in."""
