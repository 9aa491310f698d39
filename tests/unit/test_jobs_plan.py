"""Which inputs are meant, and what their outputs are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from menura.audio.places import InputFile
from menura.errors import OptionError
from menura.jobs.plan import (
    check_outputs,
    find_inputs,
    folder_outputs,
    plan_outputs,
    single_output,
)
from menura.options import ConversionOptions
from menura.types import Item


def item(name: str, folder: str = "in") -> InputFile:
    return InputFile(path=Path(folder) / name, relative=Path(name))


def outputs(*names: str, ending: str = ".wav") -> list[str]:
    return [job.output.as_posix() for job in folder_outputs([item(n) for n in names], Path("out"), ending)]


def test_tree_and_stem_are_kept() -> None:
    assert outputs("a.flac", "deep/b.v2.mp3", "no ending", ending=".ogg") == [
        "out/a.ogg", "out/deep/b.v2.ogg", "out/no ending.ogg",
    ]  # fmt: skip


def test_colliding_names_are_told_apart() -> None:
    assert outputs("a.mp3", "a.wav", "a.flac") == ["out/a-mp3.wav", "out/a.wav", "out/a-flac.wav"]
    assert outputs("a.mp3", "a.flac") == ["out/a.wav", "out/a-flac.wav"]
    assert outputs("A.wav", "a.wav") == ["out/A.wav", "out/a-2.wav"]
    assert outputs("a.mp3", "a-mp3.wav", "a.wav") == ["out/a-mp3-2.wav", "out/a-mp3.wav", "out/a.wav"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "A", "a-mp3", "a-2", "d/a"]), st.sampled_from(["", ".wav", ".mp3", ".MP3"]))
    )
)
def test_no_two_outputs_share_a_name(names: list[tuple[str, str]]) -> None:
    made = outputs(*(stem + suffix for stem, suffix in names))
    assert len({name.casefold() for name in made}) == len(names)
    assert made == outputs(*(stem + suffix for stem, suffix in names))


def test_one_output(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    one = item("talk.mp3")
    assert single_output(one, None, "wren", ".wav") == Path("in/talk.wren.wav")
    assert single_output(one, None, "voices/my voice.pth", ".flac") == Path("in/talk.my voice.flac")
    assert single_output(one, "x.flac", "wren", ".wav") == Path("x.flac")
    assert single_output(one, str(tmp_path / "there"), "wren", ".wav") == tmp_path / "there" / "talk.wav"
    assert single_output(one, "new/", "wren", ".ogg") == Path("new/talk.ogg")
    assert single_output(InputFile(path=Path("-"), relative=Path("-")), "new/", "wren", ".wav") == Path("new/stdin.wav")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.mp3", "sub/c.flac", "out/a.wav", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_what_lies_in_the_output_folder_is_no_input(folder: Path) -> None:
    found = find_inputs([str(folder)], str(folder / "out"))
    assert [entry.relative.as_posix() for entry in found.items] == ["a.wav", "b.mp3", "sub/c.flac"]
    assert found.many
    # unless it is named, or the output isn't inside the input folder
    assert len(find_inputs([str(folder), str(folder / "out" / "a.wav")], str(folder / "out")).items) == 4
    assert len(find_inputs([str(folder / "sub")], str(folder)).items) == 1


def test_one_or_many(folder: Path) -> None:
    assert not find_inputs([str(folder / "a.wav")], None).many
    assert not find_inputs(["missing.wav"], None).many
    assert find_inputs([str(folder / "a.wav"), str(folder / "a.wav")], None).many
    assert find_inputs([str(folder / "*.wav")], None).many
    nothing = find_inputs([str(folder / "*.aiff")], None)
    assert nothing.many
    assert not nothing.items
    assert len(nothing.missing) == 1


def test_inputs_are_not_written_over(folder: Path) -> None:
    with pytest.raises(OptionError) as caught:
        check_outputs([Item(source=folder / "a.wav", output=folder / "sub" / ".." / "a.wav")])
    assert caught.value.option == "output"
    check_outputs([Item(source=Path("-"), output=folder / "x.wav")])


def test_what_is_not_there_or_empty_is_told_without_reading(folder: Path) -> None:
    (folder / "empty.wav").touch()
    found = find_inputs([str(folder / name) for name in ("empty.wav", "nothing.wav", "a.wav")], None)
    assert [entry.path.name for entry in found.items] == ["a.wav"]
    assert [result.input for result in found.missing] == [str(folder / "empty.wav"), str(folder / "nothing.wav")]
    assert all(result.error and result.error.subject == result.input for result in found.missing)
    assert plan_outputs(find_inputs([str(folder / "nothing.wav")], None), None, ConversionOptions()) == []


@pytest.mark.parametrize(
    ("arguments", "output", "advice"),
    [
        (["a.wav", "x2.wav"], None, "{output=x2.wav}"),  # -o was forgotten
        (["a.wav", "b.mp3"], None, "{output=FOLDER}"),
        (["sub"], None, "{output=FOLDER}"),
        (["*.wav"], None, "{output=FOLDER}"),
        (["a.wav", "b.mp3"], "x.wav", "{output=x.wav/}"),
        (["sub"], "x.wav", "{output=x.wav/}"),
        (["a.wav", "b.mp3"], "notes.txt", None),
        (["sub"], "sub/", "{output}"),
        (["sub"], "sub/../sub", "{output}"),
        (["a.wav", "b.mp3"], "-", "{output=FOLDER}"),
        (["a.wav"], "x.xyz", "{format}"),
        (["a.wav"], "x", "{format}"),
        (["a.wav"], "a.wav", "{output}"),
        (["a.wav"], ".", "{output}"),
        (["a.wav"], "notes.txt/x.wav", None),
    ],
)
def test_outputs_that_do_not_suit_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], output: str | None, advice: str | None
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(OptionError) as caught:
        plan_outputs(find_inputs(arguments, output), output, ConversionOptions())
    if advice is not None:
        assert caught.value.option == "output"
        assert advice in (caught.value.advice or "")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("arguments", "output"), [([""], "out"), (["a.wav", ""], "out"), (["a.wav"], "")])
def test_empty_names_are_not_the_current_folder(arguments: list[str], output: str) -> None:
    with pytest.raises(OptionError):
        find_inputs(arguments, output)


def test_a_folder_may_be_named_as_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (job, *_) = plan_outputs(find_inputs(["sub"], "x.wav/"), "x.wav/", ConversionOptions())
    assert job.output == Path("x.wav/c.wav")
    with pytest.raises(OptionError) as caught:
        plan_outputs(find_inputs(["a.wav"], "x.wav"), "x.wav", ConversionOptions(format="mp3"))
    assert caught.value.option == "format"


@pytest.mark.parametrize(
    ("voice", "label"), [("wren", "wren"), ("a/b.pth", "b"), ("B.2.safetensors", "B.2"), ("v1.5", "v1.5")]
)
def test_voice_label(voice: str, label: str) -> None:
    assert single_output(item("talk.mp3"), None, voice, ".wav").name == f"talk.{label}.wav"
