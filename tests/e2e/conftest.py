"""A data folder with a tiny voice that any machine runs in no time, and recordings to convert."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from support.tiny import tiny_config
from support.voicefiles import write_voice

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from support.browser import Visit
    from support.server import Service

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"
VOICE_RATE = 24_000


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """$MENURA_HOME with the installed voice `tiny`: 24 kHz, for the starter encoder, random weights."""
    home = tmp_path_factory.mktemp("home")
    config = tiny_config(rates=(10, 6, 2, 2))
    config = dataclasses.replace(config, content_dim=384, content_encoder="menura-starter")
    write_voice(home / "voices" / "tiny" / "voice.safetensors", config)
    return home


@pytest.fixture
def place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with $MENURA_HOME set."""
    monkeypatch.setenv("MENURA_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def talk(place: Path) -> Path:
    """1.5 s of a human voice at 16 kHz."""
    samples, rate = soundfile.read(CLIP, dtype="float32", stop=24_000)
    soundfile.write(place / "talk.wav", samples, rate)
    return Path("talk.wav")


@pytest.fixture
def long_talk(place: Path) -> Path:
    """Five minutes of that voice, so that there is time to interrupt."""
    samples, rate = soundfile.read(CLIP, dtype="float32")
    soundfile.write(place / "long.flac", np.tile(samples, 43), rate)
    return Path("long.flac")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from support.browser import browser

    with browser() as chromium:
        chromium.new_context().close()
        yield chromium


@pytest.fixture(scope="module")
def service(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One of its own for a module; voices may be made in its copy of the home."""
    from support.server import Service

    folder = tmp_path_factory.mktemp("service")
    with Service(folder / "data", shutil.copytree(home, folder / "home")) as service:
        yield service


@pytest.fixture
def visit(chromium: Browser, service: Service) -> Iterator[Visit]:
    """Opens a page in a context of its own; nothing may go wrong there, and nothing be asked of other servers."""
    from support.browser import FAILED_LOAD, watched

    opened = []

    def visit(path: str = "/", *, locale: str = "en-GB", width: int = 1280, **further: Any) -> Page:
        context = chromium.new_context(
            base_url=service.address, locale=locale, viewport={"width": width, "height": 900}, **further
        )
        context.set_default_timeout(20_000)
        page, wrong = watched(context, service.address)
        opened.append((context, wrong))
        page.goto(path)
        return page

    yield visit
    for context, wrong in opened:
        context.close()
        assert not [what for what in wrong if FAILED_LOAD not in what]
