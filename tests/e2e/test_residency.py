"""Networks, voices and indexes are read once in a process, whatever it is asked."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import faiss
import numpy as np

from menura import ConversionOptions, Converter, EngineOptions, State


def write_index(path: Path) -> None:
    index = faiss.index_factory(384, "IVF1,Flat")
    vectors = np.random.default_rng(1).standard_normal((64, 384)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(path))


def test_each_is_loaded_once(talk: Path) -> None:
    write_index(Path("added.index"))
    items = []
    for number in range(5):
        shutil.copy(talk, f"{number}.wav")
        items.append((Path(f"{number}.wav"), Path("out") / f"{number}.wav"))
    options = ConversionOptions(voice="tiny", index=Path("added.index"), index_rate=0.75)
    converter = Converter(EngineOptions(threads=1))
    converter.preload(options)
    loads = {"voice:tiny": 1, "content:starter": 1, "f0:swift.safetensors": 1, "index:added.index": 1}
    for request in (options, dataclasses.replace(options, transpose=3)):
        report = converter.convert_files(items, request)
        assert [result.state for result in report.files] == [State.DONE] * 5
        assert report.model_loads == loads
    converter.convert(talk, "single.wav", options)
    assert converter.stats().model_loads == loads
    # companions didn't matter, nor did the request in between
    assert Path("single.wav").read_bytes() != Path("out/0.wav").read_bytes()
    converter.convert_files(items, options)
    assert Path("single.wav").read_bytes() == Path("out/0.wav").read_bytes()


def test_a_changed_voice_is_read_again(talk: Path, home: Path) -> None:
    shutil.copy(home / "voices" / "tiny" / "voice.safetensors", "own.safetensors")
    options = ConversionOptions(voice="own.safetensors")
    converter = Converter(EngineOptions(threads=1))
    converter.convert(talk, "a.wav", options)
    shutil.copy(home / "voices" / "tiny" / "voice.safetensors", "own.safetensors")
    report = converter.convert_files([(talk, Path("b.wav"))], options)
    assert report.model_loads["voice:own.safetensors"] == 2
    assert report.model_loads["f0:swift.safetensors"] == 1
