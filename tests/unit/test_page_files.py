"""The page's files: small, and every text in every language."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, nodes

import menura.server.pages as pages
from menura.option_spec import GROUPS
from menura.server.asked import offered
from menura.server.locales import LANGUAGES, catalogue
from menura.types import StageTimes
from menura.voices.assets import ASSETS

FOLDER = Path(pages.__file__).parent
MOST_BYTES = 150_000
CARDS = {"author", "begun_with", "consent", "content_encoder", "course", "data", "info", "licence", "recipe", "rights"}
"""Keys of voices' cards."""
DISK = {"audio", "results", "uploads"}


def called_texts(name: str) -> Iterator[str]:
    """What a template gives to `t`: constants, also those chosen from."""
    tree = Environment(autoescape=True).parse((FOLDER / "templates" / name).read_text(encoding="utf-8"))
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == "t":
            for part in call.args:
                mapped = {pair.key for pair in part.find_all(nodes.Pair)}
                constants = [part] if isinstance(part, nodes.Const) else part.find_all(nodes.Const)
                yield from (c.value for c in constants if c not in mapped and isinstance(c.value, str))


def page_texts() -> set[str]:
    templates = [path.name for path in (FOLDER / "templates").glob("*.html")]
    assert len(templates) > 8
    found = {text for name in templates for text in called_texts(name)}
    found |= set(re.findall(r'_missing\(request, "(.*)"\)', Path(pages.__file__).read_text(encoding="utf-8")))
    return found


def other_texts() -> set[str]:
    specs = offered()
    found = {text for s in specs for text in (s.label, s.help, s.unit, s.unset, *s.words)} | set(GROUPS.values())
    found |= {spec.default_text for spec in specs if spec.default is None}
    found |= {field.name.removesuffix("_s") for field in dataclasses.fields(StageTimes)}
    return (found | CARDS | DISK | {asset.purpose for asset in ASSETS}) - {""}


def test_every_text_is_in_every_language_and_no_other() -> None:
    for language in LANGUAGES:
        if language != "en":
            known = set(catalogue(language))
            assert (page_texts() | other_texts()) - known == set()
            assert known - (page_texts() | other_texts()) == set()
            assert all(text.strip() for text in catalogue(language).values())


def test_placeholders_are_kept() -> None:
    for text, translation in catalogue("zh").items():
        assert re.findall(r"%\w|\{\w+\}", text) == re.findall(r"%\w|\{\w+\}", translation)


def test_scripts_use_the_texts_that_they_are_given() -> None:
    given = re.search(r'id="texts">\{\{ \{(.*?)\} \|', (FOLDER / "templates" / "base.html").read_text(), re.DOTALL)
    assert given is not None
    names = set(re.findall(r'"(\w+)": t\(', given.group(1)))
    scripts = "".join(path.read_text(encoding="utf-8") for path in (FOLDER / "static").glob("*.js"))
    states = {"queued", "running", "done", "warning", "failed", "cancelled", "cancelling", "partly"}
    assert names == set(re.findall(r"texts\.(\w+)", scripts)) | states


def test_the_page_is_small_and_holds_nothing_of_others() -> None:
    files = [path for folder in ("static", "templates") for path in (FOLDER / folder).iterdir()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    for path in files:
        addresses = set(re.findall(r"https?://[\w.]+", path.read_text(encoding="utf-8")))
        assert addresses <= {"http://www.w3.org"}, path.name
