"""The documentation as a site: without a warning or a broken link, searchable, fetching nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import menura
from support.browser import browser, watched

ROOT = Path(__file__).parents[2]
pytest.importorskip("sphinx", reason="the group docs isn't installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by its script, whose warnings are errors, broken links and anchors among them."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "default", str(ROOT / "scripts" / "site.py"), str(folder)]
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


class _Page(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given or (tag == "link" and given.get("rel") not in ("index", "search", "next", "prev")):
            self.fetched.append(given.get("src") or given["href"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, _Page]:
    return {path: _Page(path) for path in site.rglob("*.html")}


def test_every_page_is_there_in_both_languages(site: Path) -> None:
    for source in (ROOT / "docs").glob("*.md"):
        name, _, chinese = source.stem.partition(".")
        page = (site / ("zh" if chinese else "en") / f"{name}.html").read_text(encoding="utf-8")
        title = source.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        assert f"<h1>{title}<" in page, source.name
        assert (site / "zh" / f"{name}.html").exists()
        assert "not run:" not in page


def test_links_within_the_site_lead_somewhere(site: Path, pages: dict[Path, _Page]) -> None:
    for path, page in pages.items():
        for link in (*page.links, *page.fetched):
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "data"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), (path.relative_to(site), link)
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, (path.relative_to(site), link)


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, _Page]) -> None:
    for path, page in pages.items():
        assert not [link for link in page.fetched if urlsplit(link).scheme not in ("", "data")], path
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_reference_has_every_public_name(site: Path, pages: dict[Path, _Page]) -> None:
    for language in ("en", "zh"):
        ids = pages[site / language / "api.html"].ids
        assert not [name for name in menura.__all__ if f"menura.{name}" not in ids]


def test_pages_say_the_version(site: Path) -> None:
    said = subprocess.run([sys.executable, "-m", "menura", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"menura {menura.__version__}"
    changes = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changes is not None
    assert changes[1] == menura.__version__
    for language in ("en", "zh"):
        page = (site / language / "index.html").read_text(encoding="utf-8")
        assert f"Menura {menura.__version__}" in page


FOUND = [
    ("en", "autotune", "pitch"),
    ("en", "true peak", "clean-up"),
    ("zh", "自动修音", "pitch"),
    ("zh", "响度", "clean-up"),
    ("zh", "续跑", "batch"),
    ("zh", "LUFS", "clean-up"),
]


def test_search_works_from_a_folder_without_a_network(site: Path) -> None:
    with browser() as chromium, chromium.new_context() as context:
        shown, wrong = watched(context, site.as_uri())
        for language, query, page in FOUND:
            shown.goto(f"{site.as_uri()}/{language}/search.html?q={query}")
            shown.wait_for_selector(f"#search-results a[href*='{page}.html']")
        shown.goto(f"{site.as_uri()}/zh/search.html?q=缺缺缺")
        shown.wait_for_function("document.querySelector('#search-results').innerText.length > 20")
        assert shown.locator("#search-results li").count() == 0
    assert not [said for said in wrong if said.startswith("http")]
