"""What no file of the project may say: a developer's own paths, unknown hosts, things left for later."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOSTS = {
    "127.0.0.1",
    "arxiv.org",
    "bucket",  # the reader's own, in an example
    "creativecommons.org",
    "doi.org",
    "evil.example",  # a web site that attacks, in tests
    "github.com",
    "json-schema.org",
    "huggingface.co",
    "keepachangelog.com",
    "librivox.org",
    "localhost",
    "pytorch.org",
    "semver.org",
    "www.apache.org",
    "www.w3.org",  # the name space of SVG
}
"""Where links may point to: papers, origins of formats and weights, licences."""

URL = re.compile(r"\b[a-z]+://([A-Za-z0-9.-]+)")
FORBIDDEN = {
    "a developer's path": re.compile(r"(?<![\w.$}])/(?:root|work|home/\w+|Users/\w+)/\w"),
    "a path beside the repository": re.compile(r"\.\./shared"),
    "something left for later": re.compile(r"\b(?:TODO|FIXME|XXX)\b"),
}
SELF = Path("scripts/wording.py")


def breaches(path: Path) -> Iterator[str]:
    """What in a file may not stay, one line each."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return  # not text
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in FORBIDDEN.items():
            if pattern.search(line):
                yield f"{path}:{number}: {what}: {line.strip()[:100]}"
        for host in URL.findall(line):
            if host not in HOSTS:
                yield f"{path}:{number}: a link to {host}, which scripts/wording.py doesn't list"


def main() -> int:
    """Print every breach in the files under version control; 1 if there is one."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    files = [Path(name) for name in listed.split("\0") if name]
    files = [path for path in files if path != SELF and path.suffix != "" and path.is_file()]
    found = [line for path in files for line in breaches(path)]
    print("\n".join(found) if found else f"Wording: {len(files)} files.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
