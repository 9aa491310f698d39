"""Every option once: default, range, unit and help. Every interface derives from here. Loads no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from menura.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """What a user interface needs to know of an option."""

    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Words that stand beside the numbers, e.g. auto."""
    flag: str | None = None
    """Command-line name where it isn't the field's own, e.g. --no-cudnn."""


def _option(default: Any, help: str, **spec: Any) -> Any:
    return field(default=default, metadata={"spec": OptionSpec(help=help, **spec)})


def option_spec(f: dataclasses.Field[Any]) -> OptionSpec:
    """The OptionSpec of a dataclass field made here."""
    spec = f.metadata["spec"]
    assert isinstance(spec, OptionSpec)
    return spec


def _check(options: Any) -> None:
    for f in dataclasses.fields(options):
        spec, value = option_spec(f), getattr(options, f.name)
        if value is None or value in spec.words:
            continue
        if spec.choices and value not in spec.choices:
            raise OptionError(f"{f.name}: '{value}' is not one of {', '.join(spec.choices)}.")
        if spec.minimum is not None or spec.maximum is not None:
            low = spec.minimum if spec.minimum is not None else float("-inf")
            high = spec.maximum if spec.maximum is not None else float("inf")
            if not isinstance(value, (int, float)) or not low <= value <= high:
                raise OptionError(
                    f"{f.name}: {value} is outside {low:g} to {high:g}{' ' + spec.unit if spec.unit else ''}."
                )


F0_METHODS = ("auto", "rmvpe", "fcpe", "swift")
STRATEGIES = ("auto", "stream", "whole")
COMPAT_MODES = ("menura", "applio", "rvc")
FORMATS = ("wav", "flac", "ogg", "mp3", "opus", "m4a")
DEFAULT_VOICE = "wren"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionOptions:
    """What one request asks for."""

    voice: str = _option(DEFAULT_VOICE, "Voice: a starter or installed voice's name, or the path of an RVC .pth file.")
    index: Path | None = _option(None, "Retrieval index (.index); by default the one installed with the voice.")
    index_rate: float = _option(
        0.75, "How much retrieved content replaces the input's (0 = none).", minimum=0, maximum=1
    )
    speaker_id: int = _option(0, "Speaker of a voice with several.", minimum=0, maximum=4095)
    transpose: float | Literal["auto"] = _option(
        0.0,
        "Pitch shift (RVC's f0_up_key); auto moves the recording's median to the voice's, in whole semitones.",
        unit="semitones",
        minimum=-48,
        maximum=48,
        words=("auto",),
    )
    f0: str = _option(
        "auto", "F0 method; auto is rmvpe where its weights are installed, else swift.", choices=F0_METHODS
    )
    f0_file: Path | None = _option(None, "CSV of lines 'seconds,hz' at 10 ms, used instead of estimating F0.")
    protect: float = _option(
        0.33, "Keeps unvoiced sounds from retrieval: 0 protects most, 0.5 is off.", minimum=0, maximum=0.5
    )
    rms_mix_rate: float = _option(
        1.0, "Loudness envelope: 1 keeps the voice's own, 0 follows the input's.", minimum=0, maximum=1
    )
    seed: int = _option(0, "Seed of the noise; the same seed gives the same samples.", minimum=0, maximum=2**63 - 1)
    noise_scale: float = _option(
        1.0, "Scales latent and source noise together: 1 is RVC's own, 0 is none.", minimum=0, maximum=4
    )
    strategy: str = _option(
        "auto", "How long input is taken: stream is bounded in memory, whole is one window.", choices=STRATEGIES
    )
    compat: str = _option(
        "menura", "Follow another program's numbers, with its whole-file windows.", choices=COMPAT_MODES
    )
    format: str | None = _option(None, "Output format; by default the output name's ending, else wav.", choices=FORMATS)
    sample_rate: int | None = _option(
        None, "Output rate; by default the voice's own.", unit="Hz", minimum=4000, maximum=384_000
    )

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range, or values that exclude each other."""
        _check(self)
        if self.compat != "menura" and self.strategy == "stream":
            raise OptionError("strategy: a compatible mode works on whole recordings; leave out --strategy stream.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a process runs with."""

    device: str = _option("auto", "cpu, cuda, cuda:1, mps, or auto.")
    threads: int | None = _option(None, "Compute threads; by default the physical cores.", minimum=1, maximum=1024)
    cudnn: bool = _option(True, "Use cuDNN on NVIDIA devices.", flag="--no-cudnn")
    home: Path | None = _option(
        None, "Folder of assets and voices; by default $MENURA_HOME or the platform's data folder."
    )

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range."""
        _check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Which recordings of folders are taken, and what becomes of finished ones."""

    recursive: bool = _option(True, "Take folders with all below them.")
    include: tuple[str, ...] = _option(
        (),
        "Of folders and patterns take only what matches this glob: '*.flac' a name, 'day1/*' a path below the folder. "
        "May be given several times.",
    )
    exclude: tuple[str, ...] = _option((), "Of folders and patterns leave out what matches; as --include.")
    force: bool = _option(False, "Convert again what an earlier run of the same request finished in the folder.")
    workers: int = _option(
        1, "Processes that share the files of a folder; cores and GPUs are divided among them.", minimum=1, maximum=256
    )
    report: Path | None = _option(None, "Write the JSON document about the run to this file.")

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range."""
        _check(self)
