"""Text from files, made fit for a terminal and a document."""

from __future__ import annotations


def printable(text: str, most_characters: int = 200) -> str:
    """One line without control characters or lone surrogates, cut to a length."""
    cut = text if len(text) <= most_characters else f"{text[: most_characters - 1]}…"
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in cut)
