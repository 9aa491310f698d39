"""However a file is cut or damaged, reading it ends in a DecodeError or in sound with a warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from menura.audio.decode import open_audio
from menura.errors import DecodeError
from support.media import encode_media

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "rf64": ("RF64", "PCM_24"),
    "w64": ("W64", "FLOAT"),
    "adpcm": ("WAV", "IMA_ADPCM"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
MEDIA = ("m4a", "mka", "webm", "aac", "wma", "ac3", "ts")
STARTS = (
    *(
        b"",
        b"RIFF\0\0\0\0WAVE",
        b"RF64\xff\xff\xff\xffWAVEds64",
        b"FORM\0\0\0\0AIFF",
        b"caff\0\1\0\0",
        b".snd\0\0\0\x18",
    ),
    *(b"OggS\0\2", b"fLaC", b"ID3\3\0\0", b"\xff\xfb\x90\x44", b"\xff\xf1", b"\0\0\0\x18ftypM4A ", b"\x1a\x45\xdf\xa3"),
)
SAMPLES = 60_000
TIMES = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recording of every format, each named by it."""
    folder = tmp_path_factory.mktemp("damage")
    x = (0.2 * np.random.default_rng(1).standard_normal(SAMPLES)).astype(np.float32)
    for name, (container, coding) in FORMATS.items():
        soundfile.write(folder / name, x, 16_000, format=container, subtype=coding)
    for name in MEDIA:
        encode_media(folder / f"a.{name}", x, 48_000 if name in ("webm", "ac3") else 16_000)
        (folder / f"a.{name}").rename(folder / name)
    return folder


def read(path: Path) -> tuple[int, str | None]:
    """Samples read and the warning; 0 for a DecodeError, whose message must be one line."""
    try:
        reader = open_audio(path)
        count = 0
        for block in reader.blocks(10_000):
            assert np.isfinite(block).all()
            count += block.size
        assert count == sum(block.size for block in reader.blocks(3000))
    except DecodeError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return 0, None
    return count, reader.warning


@pytest.mark.parametrize("name", [*FORMATS, *MEDIA])
@TIMES
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_anywhere(tmp_path: Path, files: Path, name: str, share: float) -> None:
    data = (files / name).read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(share * len(data))])
    count, warning = read(tmp_path / "cut")
    if count and name in FORMATS:
        assert warning is not None
    # The compressed streams' decoders may add their delay and padding.
    assert count <= 3 * (SAMPLES + 6000)


@pytest.mark.parametrize("name", [*FORMATS, *MEDIA])
@TIMES
@given(data=st.data())
def test_damaged_anywhere(tmp_path: Path, files: Path, name: str, data: st.DataObject) -> None:
    broken = bytearray((files / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # Headers are where it hurts.
        place = data.draw(st.one_of(st.integers(0, min(200, len(broken) - 1)), st.integers(0, len(broken) - 1)))
        run = data.draw(st.binary(min_size=1, max_size=40))
        broken[place : place + len(run)] = run
    (tmp_path / "broken").write_bytes(broken)
    read(tmp_path / "broken")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from(STARTS),
    rest=st.binary(max_size=400),
)
def test_anything_at_all(tmp_path: Path, start: bytes, rest: bytes) -> None:
    (tmp_path / "any").write_bytes(start + rest)
    read(tmp_path / "any")
