"""The page's files: small, and every text in every language."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, nodes

import menura.server.pages as pages
from menura.effects.definitions import EFFECTS, PRESETS
from menura.errors import OptionError
from menura.option_spec import GROUPS, specs_of
from menura.options import FORMATS, CloneOptions, ConversionOptions, TrainingOptions
from menura.server.asked import offered
from menura.server.locales import LANGUAGES, catalogue, message, messages
from menura.types import StageTimes
from menura.voices.assets import catalogue as known_assets

FOLDER = Path(pages.__file__).parent
MOST_BYTES = 150_000
CARDS = {"author", "begun_with", "consent", "content_encoder", "course", "data", "info", "licence", "recipe", "rights"}
"""Keys of voices' cards."""
JOB_STATES = "queued running done warning failed cancelled cancelling partly"
TRAINING_STATES = "new queued running stopping stopped failed done loading slices features training voice"
DISK = {"audio", "results", "trainings", "uploads"}


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
    specs = [spec for kind in (CloneOptions, ConversionOptions, TrainingOptions) for spec in offered(kind)]
    found = {text for s in specs for text in (s.label, s.help, s.unit, s.unset, *s.words)} | set(GROUPS.values())
    parameters = [spec for effect in EFFECTS.values() for spec in specs_of(effect)]
    found |= {text for s in parameters for text in (s.label, s.help, s.unit)} | set(PRESETS)
    found |= {text for name, effect in EFFECTS.items() for text in (name.capitalize(), effect.help)}
    found |= {spec.default_text for spec in specs if spec.default is None}
    found |= {field.name.removesuffix("_s") for field in dataclasses.fields(StageTimes)}
    return (found | CARDS | DISK | {asset.purpose for asset in known_assets().values()}) - {""}


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


def written(tree: ast.AST) -> Iterator[str]:
    """A program's texts, with # for what is put in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "#" for part in node.values)
            yield "".join(parts).replace("'#'", "#")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"'[^']*'|\b\d+(?:\.\d+)?", "#", re.sub(r"\{(\w+(?:=\w+)?)\}", r"\1", node.value))


def refusal(given: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        ConversionOptions(**given)
    except OptionError as error:
        return tuple(filter(None, (error.problem, error.details.advised())))
    return ()


def refusals() -> Iterator[str]:
    """What is said of values and combinations that options don't take."""
    values: list[dict[str, Any]] = [{spec.name: 1e30} for spec in offered() if spec.range]
    values += [{"seed": 0.5}, {"bit_depth": 17}, {"compat": "rvc", "strategy": "stream"}, {"bitrate": 64, "quality": 5}]
    values += [{"compat": "rvc", "split_silence": True}, {"format": "flac", "bit_depth": 32}]
    values += [{"format": f, name: 16} for f in FORMATS for name in ("bitrate", "bit_depth")]
    values += [{"format": f, "quality": 5} for f in FORMATS]
    for given in values:
        yield from refusal(given)


def test_what_the_engine_says_is_translated() -> None:
    source = Path(pages.__file__).parents[2]
    known = {text for path in source.rglob("*.py") for text in written(ast.parse(path.read_text(encoding="utf-8")))}
    refused = set(refusals())
    assert len(refused) > 15
    assert [text for text in refused if message(text, "zh") == text] == []
    patterns = {re.sub(r"'[^']*'|[+-]?\b\d+(?:\.\d+)?(?:e\+\d+)?", "#", text) for text in refused}
    known |= patterns | {text.replace("# s", "#") for text in known}  # some seconds are put in with their unit
    assert [text for text in messages("zh") if not {text, text.replace("# s", "#")} & known] == []
    assert message("Pitch was moved by +12 semitones to the voice's.", "zh") == "音高移动了 +12 个半音，以配合音色。"
    assert message("a voice named 'x' exists already", "zh") == "已有名为 'x' 的音色"
    assert message("said by nobody", "zh") == "said by nobody"


@pytest.mark.parametrize(
    ("template", "scripts", "states"),
    [
        (
            "base.html",
            "app convert effects job jobs player voices",
            "queued running done warning failed cancelled cancelling partly",
        ),
        (
            "train_macros.html",
            "train",
            "new queued running stopping stopped failed done loading slices features training voice",
        ),
    ],
)
def test_scripts_use_the_texts_that_they_are_given(template: str, scripts: str, states: str) -> None:
    text = (FOLDER / "templates" / template).read_text(encoding="utf-8")
    given = re.search(r'texts">\{\{ \{(.*?)\} \|', text, re.DOTALL)
    assert given is not None
    code = "".join((FOLDER / "static" / f"{name}.js").read_text(encoding="utf-8") for name in scripts.split())
    names = set(re.findall(r'"(\w+)": t\(', given.group(1)))
    assert names == set(re.findall(r"\btexts\.(\w+)", code)) - {"said"} | set(states.split())


def test_the_page_is_small_and_holds_nothing_of_others() -> None:
    files = [path for folder in ("static", "templates") for path in (FOLDER / folder).iterdir()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    for path in files:
        addresses = set(re.findall(r"https?://[\w.]+", path.read_text(encoding="utf-8")))
        assert addresses <= {"http://www.w3.org"}, path.name
