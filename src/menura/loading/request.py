"""What a run converts with, resolved once and handed down: light, picklable, without torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union

from menura import __version__
from menura.audio.places import FileStamp
from menura.content.registry import STARTER, encoder_dim, encoder_path, projection_of
from menura.effects.definitions import Effect
from menura.effects.text import checked
from menura.errors import EncoderMismatchError, IndexFileError, MenuraError, OptionError
from menura.f0.contour import read_f0_file
from menura.f0.registry import method_path, resolve_method
from menura.f0.shift import Aim
from menura.models.config import SynthesizerConfig
from menura.options import ConversionOptions
from menura.spans import Turn, speakers_of, turns_of, whose
from menura.system.text import printable
from menura.types import FloatArray
from menura.voices.library import VoiceEntry, find_voice, speaker_names

_REPLACED = (
    "voice",
    "index",
    "index_rate",
    "f0",
    "f0_file",
    "transpose",
    "strategy",
    "part_length",
    "spans",
    "speakers",
)
"""Options that stand in an identity as what they came to, or not at all, as they change nothing."""

_PARTS_LAYOUT = 3
"""Of their files; others than these are made anew."""


@dataclass(frozen=True, slots=True)
class ModelKey:
    """What makes a loaded model reusable: the file as it is now, and how it was loaded."""

    kind: str
    path: str
    size_bytes: int
    modified_ns: int
    variant: str

    @classmethod
    def of(cls, kind: str, path: Path, variant: str = "") -> ModelKey:
        """The key of a file or a folder of files on disk. Raises OSError."""
        files = [f for f in path.iterdir() if f.is_file()] if path.is_dir() else [path]
        stats = [f.stat() for f in files]
        size_bytes, modified_ns = sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
        return cls(kind, str(path.resolve()), size_bytes, modified_ns, variant)


_MOST_ROLES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """The spans of a recording that are converted in one way, all with one shift of pitch."""

    request: Request
    spans_s: tuple[tuple[float, float], ...]
    """In order, apart from each other."""
    speaker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Options with everything they name found: made by `resolve`."""

    options: ConversionOptions
    voice: VoiceEntry
    config: SynthesizerConfig
    content_path: Path
    f0_method: str | None = None
    """'file' where F0 is given; None for a voice without F0."""
    f0_path: Path | None = None
    """Weights of the method, None where F0 is given or not needed."""
    f0_hz: FloatArray | None = field(default=None, compare=False)
    """(frames,) F0 of the recording at 10 ms, where it is given."""
    index_path: Path | None = None
    """None where it isn't used, too."""
    effects: tuple[Effect, ...] = ()
    precision: str = "auto"
    """Asked of the process that converts; what auto comes to is its machine's affair."""
    roles: tuple[Role, ...] = ()
    """Of a dialogue, whose voice and networks above are those of the first; none of a plain conversion."""
    told: tuple[str, ...] = ()
    """Notes on the spans."""
    shifts: tuple[float, ...] = ()
    """Of the batch, for recordings that are converted together: as in `Aim`."""

    @property
    def aim(self) -> Aim | None:
        """What an automatic shift aims at: the pitch asked for, or the voice's own, where it is known."""
        own_hz = self.voice.f0_median_hz
        target_hz = (self.options.proposed_pitch or own_hz) if self.config.has_f0 else None
        if target_hz is None:
            return None
        forced = self.options.transpose == "auto-batch"
        return Aim.of(target_hz, self.voice.f0_range_hz, own_hz, shifts=self.shifts, forced=forced)

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of how the options were resolved."""
        beside = self.voice.note and self.options.index is None and self.index_rate > 0
        other = f"Content comes from {self.options.content} in place of the encoder that the voice names."
        unused = "The index isn't used: with menura-starter content it costs words. An index rate makes it count."
        quiet = self.options.index is not None and self.options.index_rate is None and not self.index_rate
        notes = {self.voice.note: beside, other: self.options.content is not None, unused: quiet}
        return tuple(note for note, holds in notes.items() if holds)

    @property
    def index_rate(self) -> float:
        """What is asked for, or the default: RVC's, but 0 where that costs every tenth character (docs/training.md)."""
        if self.options.index_rate is not None:
            return self.options.index_rate
        return 0.0 if self.config.content_encoder == STARTER else 0.75

    @property
    def transpose(self) -> float | Literal["auto"]:
        """What is asked for, or the default: given F0 is meant as it is, and RVC moves nothing by itself."""
        options = self.options
        if options.transpose is not None:  # of one recording auto-batch is auto
            return "auto" if options.transpose == "auto-batch" else options.transpose
        moved = (options.compat == "menura" and self.f0_hz is None) or options.proposed_pitch is not None
        return "auto" if moved and self.aim is not None else 0.0

    @property
    def together(self) -> bool:
        """Whether recordings of a batch are to be moved alike, unless their speakers are others."""
        return self.transpose == "auto" and self.options.transpose != "auto" and not self.roles

    @property
    def portable(self) -> Shifted:
        """What another machine is to resolve."""
        return Shifted(options=self.options, shifts=self.shifts)

    @property
    def loudness(self) -> float | Literal["source", "voice"]:
        """What is asked for, or the default: RVC leaves the voice's."""
        if self.options.loudness is not None:
            return self.options.loudness
        return "source" if self.options.compat == "menura" else "voice"

    def streamed(self) -> Request:
        """The same request for sound that is heard as it is made, whose loudness nobody knows before its end."""
        return dataclasses.replace(self, options=dataclasses.replace(self.options, loudness="voice"))

    @property
    def identity(self) -> str:
        """A hash of everything that decides an output besides its input and this machine, Menura's version included.

        Files count by path, size and time of change, as for the models that stay loaded; given F0 by its values. The
        shifts of a batch don't count, which its journal keeps.
        """
        files = {"voice": self.voice.path, "content": self.content_path, "f0": self.f0_path, "index": self.index_path}
        fields = {
            "version": __version__,
            "files": [dataclasses.astuple(ModelKey.of(kind, path)) for kind, path in files.items() if path is not None],
            "f0_method": self.f0_method,
            "f0_hz": None if self.f0_hz is None else hashlib.sha256(self.f0_hz.tobytes()).hexdigest(),
            "index_rate": None if self.index_path is None else self.index_rate,
            "transpose": (self.transpose, self.together, self.options.transpose == "auto-batch"),
            "aim": dataclasses.replace(self.aim, shifts=()) if self.transpose == "auto" and self.aim else None,
            "precision": self.precision,
            "whole": self.options.strategy == "whole",
            "options": {k: v for k, v in dataclasses.asdict(self.options).items() if k not in _REPLACED},
        }
        if self.roles:
            fields["roles"] = [(role.request.identity, role.spans_s) for role in self.roles]
        return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()

    def with_parts_of(self, length_s: float) -> Request:
        """The same request with parts of another length."""
        return dataclasses.replace(self, options=dataclasses.replace(self.options, part_length=length_s))

    def parts_tag(self, source: FileStamp | None) -> str:
        """Of a recording's parts, as it was before it was read: by the journal's rules, all that decides an output."""
        stamp = source and dataclasses.asdict(source)
        fields = [_PARTS_LAYOUT, self.identity, stamp, self.options.part_length, self.shifts]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shifted:
    """Options that aren't resolved yet, and the shifts that their batch came to."""

    options: ConversionOptions
    shifts: tuple[float, ...] = ()


Asked: TypeAlias = Union["ConversionOptions", Shifted, Request]
"""Options, or what `resolve` made of them."""


def resolve(options: ConversionOptions | Shifted, home: Path) -> Request:
    """Look up what options name, here and nowhere else: voice, networks, index, F0. Raises MenuraError."""
    if isinstance(options, Shifted):
        return dataclasses.replace(resolve(options.options, home), shifts=options.shifts)
    if options.spans is not None:
        return _dialogue(options, options.spans, home)
    from menura.checkpoints.voice import read_config

    voice = find_voice(options.voice, home)
    config = read_config(voice.path)
    _check(options, voice, config)
    options = dataclasses.replace(options, speaker_id=_speaker(options.speaker_id, voice, config))
    given = read_f0_file(options.f0_file) if options.f0_file is not None and config.has_f0 else None
    method = None if not config.has_f0 else "file" if given is not None else resolve_method(options.f0, home)
    content_path = encoder_path(options.content or config.content_encoder, home)
    if options.content is not None:
        config = _with_content(options.content, content_path, voice, config)
    request = Request(
        options=options,
        voice=voice,
        config=config,
        content_path=content_path,
        f0_method=method,
        f0_path=None if method in (None, "file") else method_path(method, home),
        f0_hz=given,
        effects=checked(options.effects or ""),
    )
    index_path = (options.index or voice.index_path) if request.index_rate else None
    if index_path is not None and not index_path.is_file():
        raise IndexFileError(index_path, "no such file", "Check the path, or use {index_rate=0}", option="index")
    return dataclasses.replace(request, index_path=index_path)


def _dialogue(options: ConversionOptions, spans: str, home: Path) -> Request:
    """A request whose spans are converted by a voice each; the others keep the original sound, or are silent."""
    turns, overlapped_s = turns_of(spans)
    voices, plain = (
        speakers_of(options.speakers),
        dataclasses.replace(options, spans=None, speakers=None, outside="original"),
    )
    named = dict.fromkeys(name for turn in turns for name in (turn.speaker, turn.voice) if name is not None)
    listed = printable(", ".join(named) or "none", 300)
    for name in voices:
        if name not in named:
            problem = f"no span is of '{printable(name, 40)}'"
            raise OptionError(None, problem, f"The speakers are {listed}", "speakers")
    groups: dict[tuple[str, str | None, tuple[tuple[str, str | float], ...]], list[Turn]] = {}
    for turn in turns:
        speaker, own = whose(turn, voices)
        if voice := own or (options.voice if speaker is None else None):
            groups.setdefault((voice, speaker, turn.options), []).append(turn)
    if not groups:
        raise OptionError(
            None, f"no speaker of the spans has a voice ({listed})", "Give {speakers=NAME=VOICE}", "spans"
        )
    if len(groups) > _MOST_ROLES:
        problem = f"{len(groups)} different combinations of speaker, voice and options; there may be {_MOST_ROLES}"
        raise OptionError(None, problem, "Convert one part of the spans after the other", "spans")
    roles = tuple(_role(plain, key, members, home, voices) for key, members in groups.items())
    told = (f"Turns overlap for {overlapped_s:.1f} s, which went to the one that began last.",) * (overlapped_s >= 0.05)
    kept = sorted({t.speaker for t in turns if t.speaker} - {speaker for _, speaker, _ in groups})
    if kept:
        told += (f"Not converted, as they have no voice: '{printable(', '.join(kept), 200)}'.",)
    return dataclasses.replace(roles[0].request, options=options, roles=roles, told=told)


def _role(
    plain: ConversionOptions,
    key: tuple[str, str | None, tuple[tuple[str, str | float], ...]],
    turns: Sequence[Turn],
    home: Path,
    voices: Mapping[str, str],
) -> Role:
    """The turns converted in one way; what can't be found is told with a speaker of `voices`, or the first's place."""
    voice, speaker, given = key
    fields: dict[str, Any] = {"voice": voice, **dict(given)}
    if voice != plain.voice and plain.index is not None:
        fields["index"] = None  # it belongs to the other voice
    try:
        request = resolve(dataclasses.replace(plain, **fields), home)
    except MenuraError as error:
        what = f" ({error.option})" if error.option not in (None, "voice") else ""
        given_there = not what and voices.get(speaker or "") == voice
        place = f"'{printable(speaker or '', 40)}'" if given_there else f"{turns[0].place}{what}"
        problem = ": ".join(filter(None, (place, error.subject, error.problem)))
        raise type(error)(None, problem, error.advice, "speakers" if given_there else "spans") from None
    joined: list[tuple[float, float]] = []
    for turn in turns:
        begun_s = joined.pop()[0] if joined and joined[-1][1] == turn.start_s else turn.start_s
        joined.append((begun_s, turn.end_s))
    return Role(request=request, spans_s=tuple(joined), speaker=speaker)


def _with_content(name: str, path: Path, voice: VoiceEntry, config: SynthesizerConfig) -> SynthesizerConfig:
    """The voice as if it had been trained on another encoder. Raises EncoderMismatchError where widths differ."""
    width = encoder_dim(name, path, projection_of(config.version))
    if width != config.content_dim:
        problem = f"takes content of {config.content_dim} dimensions, and {name} gives {width}"
        raise EncoderMismatchError(voice.name, problem, "Leave out {content}", "content")
    return dataclasses.replace(config, content_encoder=name)


def _speaker(asked: int | str, voice: VoiceEntry, config: SynthesizerConfig) -> int:
    """The speaker's number, given by it, or by a name: in any case, if that is unambiguous."""
    last = config.n_speakers - 1
    if isinstance(asked, int):
        if asked <= last:
            return asked
        known = f"has speakers 0 to {last}" if last else "has only speaker 0"
        problem = f"voice '{voice.name}' {known}, not {asked}"
        raise OptionError(None, problem, f"Use a {{speaker_id}} up to {last}", option="speaker_id")
    names = speaker_names(voice)[: last + 1]
    exact = [number for number, name in enumerate(names) if name == asked]
    found = exact or [number for number, name in enumerate(names) if name.casefold() == asked.casefold()]
    if len(found) == 1:
        return found[0]
    problem = f"voice '{voice.name}' has {'several speakers' if found else 'no speaker'} named '{asked}'"
    listed = printable(", ".join(filter(None, names)), 300)
    known = f", or one of these names: {listed}" if listed else "; the voice names none"
    raise OptionError(None, problem, f"Use a {{speaker_id}} up to {last}{known}", option="speaker_id")


def _check(options: ConversionOptions, voice: VoiceEntry, config: SynthesizerConfig) -> None:
    automatic = options.transpose in ("auto", "auto-batch")
    if options.proposed_pitch is not None and options.transpose is not None and not automatic:
        problem = "pitch is moved by a given number of semitones"
        raise OptionError(None, problem, "Leave out {proposed_pitch} or {transpose}", option="proposed_pitch")
    if options.f0 == "pm" and options.f0_repair != "off":
        problem = "pm takes noise at half speed for notes"
        raise OptionError(None, problem, "Choose another {f0}, or leave out {f0_repair}", option="f0_repair")
    if automatic and config.has_f0 and options.proposed_pitch is None and voice.f0_median_hz is None:
        problem = f"the pitch of voice '{voice.name}' is unknown: it has no card.json with f0_median_hz"
        raise OptionError(None, problem, "Give {proposed_pitch}, or {transpose} in semitones", option="transpose")
