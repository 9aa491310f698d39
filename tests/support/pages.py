"""What of a mapped file is in memory."""

from __future__ import annotations

from pathlib import Path


def mapped_bytes(file: Path) -> int:
    """Of a file's mappings in this process, those in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
