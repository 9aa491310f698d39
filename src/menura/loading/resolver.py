"""From options to a request: all that they name is looked up here, and nowhere else. Loads no torch by itself."""

from __future__ import annotations

from pathlib import Path

from menura.content.registry import encoder_path
from menura.errors import IndexFileError, OptionError
from menura.f0.file import read_f0_file
from menura.f0.registry import method_path, resolve_method
from menura.loading.request import Request
from menura.models.config import SynthesizerConfig
from menura.options import ConversionOptions
from menura.voices.library import VoiceEntry, find_voice


def resolve(options: ConversionOptions, home: Path) -> Request:
    """Look up what options name: voice, networks, index, F0.

    Raises:
        VoiceNotFoundError, CheckpointError, AssetMissingError, IndexFileError: with what to do.
        OptionError: the voice has no such speaker, or no known pitch to move to; or the F0 file can't be read.
    """
    from menura.checkpoints.rvc import read_config

    voice = find_voice(options.voice, home)
    config = read_config(voice.path)
    _check(options, voice, config)
    given = read_f0_file(options.f0_file) if options.f0_file is not None and config.has_f0 else None
    method = None if not config.has_f0 else "file" if given is not None else resolve_method(options.f0, home)
    return Request(
        options=options,
        voice=voice,
        config=config,
        content_path=encoder_path(config.content_encoder, home),
        f0_method=method,
        f0_path=None if method in (None, "file") else method_path(method, home),
        f0_hz=given,
        index_path=_index(options.index or voice.index_path) if options.index_rate else None,
    )


def _index(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise IndexFileError(path, "no such file", "Check the path, or use {index_rate=0}", option="index")
    return path


def _check(options: ConversionOptions, voice: VoiceEntry, config: SynthesizerConfig) -> None:
    if options.speaker_id >= config.n_speakers:
        last = config.n_speakers - 1
        known = f"has speakers 0 to {last}" if last else "has only speaker 0"
        raise OptionError(
            None,
            f"voice '{voice.name}' {known}, not {options.speaker_id}",
            f"Use a {{speaker_id}} up to {last}",
            option="speaker_id",
        )
    if options.transpose in ("auto", "auto-batch") and config.has_f0 and voice.f0_median_hz is None:
        raise OptionError(
            None,
            f"the pitch of voice '{voice.name}' is unknown: it has no card.json with f0_median_hz",
            "Give {transpose} in semitones",
            option="transpose",
        )
