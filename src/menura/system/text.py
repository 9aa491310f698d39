"""Text from files: of the system's own, and fit for a terminal and a document."""

from __future__ import annotations

from pathlib import Path


def printable(text: str, most_characters: int = 200) -> str:
    """One line without control characters or lone surrogates, cut to a length."""
    cut = text if len(text) <= most_characters else f"{text[: most_characters - 1]}…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in cut)


def system_text(path: Path) -> str:
    """What a file of the system's says, such as of /proc; '' where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
