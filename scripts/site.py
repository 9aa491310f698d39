#!/usr/bin/env python3
"""Build the documentation's site from docs/: English and Chinese, each with its own search; no network is needed.

usage: site.py [FOLDER]    (default: build/site; open FOLDER/index.html)

docs/ stays plain Markdown that reads well where it lies. Pages are laid out for Sphinx language by language: a Chinese
page under its English name, English ones where nobody has translated them. docs/index.md's lists make the navigation.
Every warning is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LANGUAGES = ("en", "zh")
_LINK = re.compile(r"\[([^\]]*)\]\(([\w./-]+)(#[^)\s]*)?\)")
_FOR_SOURCES = re.compile(r"\n\[(?:中文|English)\]\([\w.-]+\)\n|^<!-- .*? -->\n", re.MULTILINE)
"""The other language, which the site has in its margin; what is for tests and scripts."""
_FRONT = (
    '<!doctype html><meta charset="utf-8"><title>Menura</title><script>location.replace('
    '(navigator.language.startsWith("zh") ? "zh" : "en") + "/index.html")</script>'
    '<p><a href="en/index.html">English</a> <a href="zh/index.html" lang="zh">简体中文</a>\n'
)


def pages(language: str) -> dict[str, Path]:
    """The source of each page, by its name on the site."""
    english = {path.stem: path for path in DOCS.glob("*.md") if "." not in path.stem}
    chinese = {name: DOCS / f"{name}.zh-CN.md" for name in english}
    found = english | ({name: path for name, path in chinese.items() if path.exists()} if language == "zh" else {})
    return found | {"changelog": ROOT / "CHANGELOG.md"}


def laid_out(name: str, source: Path, language: str) -> str:
    """A page's text for a language's site; its links lead to pages there."""
    here = {path: page for page, path in pages(language).items()}

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], (source.parent / found[2]).resolve(), found[3] or ""
        if target in here:
            return f"[{text}]({here[target]}.md{anchor})"
        if target.suffix == ".md" and target.parent == DOCS and target.exists():  # in the other language
            other = "zh" if target.stem.endswith(".zh-CN") else "en"
            return f'<a href="../{other}/{target.name.partition(".")[0]}.html{anchor}">{text}</a>'
        kept = target.is_relative_to(DOCS) or not target.exists()  # Sphinx tells what leads nowhere
        return found[0] if kept else text  # the site has no other files of the repository

    text = _LINK.sub(link, _FOR_SOURCES.sub("", source.read_text(encoding="utf-8")))
    return text + navigation(text) if name == "index" else text


def navigation(index: str) -> str:
    """The lists of the first page as what Sphinx makes its navigation of."""
    made = ""
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        names = re.findall(r"^- \[[^\]]*\]\(([\w-]+)\.md\)", section, re.MULTILINE)
        names = [name for page in names for name in ([page, "api"] if page == "python" else [page])]
        caption = f":caption: {section.splitlines()[0]}"
        made += "\n".join(("", "```{toctree}", ":hidden:", caption, "", *names, "```", ""))
    return made


def lay_out(folder: Path, language: str) -> None:
    """Sphinx's sources: pages, pictures, examples."""
    for name, source in pages(language).items():
        (folder / f"{name}.md").write_text(laid_out(name, source, language), encoding="utf-8")
    for kept in ("pictures", "examples"):
        shutil.copytree(DOCS / kept, folder / kept)
    shutil.copy(DOCS / "site" / "api.rst", folder)
    shutil.copytree(DOCS / "site" / "locale", folder / "locale")


def build(sources: Path, language: str, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-E"]
    command += ["-c", str(DOCS / "site"), "-d", str(sources / ".doctrees"), str(sources), str(out / language)]
    return subprocess.Popen(command, env=os.environ | {"MENURA_SITE_LANGUAGE": language}, cwd=ROOT)


def main(arguments: list[str]) -> int:
    """Build all of it; 1 if anything is wrong."""
    out = Path(arguments[0] if arguments else ROOT / "build" / "site").resolve()
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="menura-site-") as temporary:
        running = []
        for language in LANGUAGES:
            sources = Path(temporary) / language
            sources.mkdir()
            lay_out(sources, language)
            running.append(build(sources, language, out))
        failed = [process.wait() for process in running]
    if any(failed):
        return 1
    (out / "index.html").write_text(_FRONT, encoding="utf-8")
    print(f"The site is at {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
