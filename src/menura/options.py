"""Every option once: default, range, unit and help. Every interface derives from here. Loads no torch."""

from __future__ import annotations

import dataclasses
import re
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
    bare: str | None = None
    """What the option means on the command line without a value."""


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


PRECISIONS = ("bf16", "fp16", "fp32")
"""That training computes in."""
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
    transpose: float | Literal["auto"] | None = _option(
        None,
        "Pitch shift (RVC's f0_up_key); auto moves the recording's median to the voice's, in whole semitones. "
        "By default auto for voices whose card tells their pitch, as the starter voices' do, else 0.",
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
    split_silence: bool = _option(
        False, "Leave out silence of half a second and more, which becomes silence of the same length."
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
        if self.compat != "menura" and self.split_silence:
            raise OptionError("split_silence: a compatible mode converts silence too; leave out --split-silence.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a process runs with."""

    device: str = _option("auto", "cpu, cuda, cuda:1, mps, or auto.")
    threads: int | None = _option(
        None,
        "Compute threads of a process; by default the physical cores, divided among --workers.",
        minimum=1,
        maximum=1024,
    )
    cudnn: bool = _option(True, "Use cuDNN on NVIDIA devices.", flag="--no-cudnn")
    home: Path | None = _option(
        None, "Folder of assets and voices; by default $MENURA_HOME or the platform's data folder."
    )

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range."""
        _check(self)


_RAY_ADDRESS = re.compile(r"auto|local|[^/\s]+:\d+")


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
    workers: int | None = _option(
        None,
        "Processes that share the files of a folder. By default one, one for each of several GPUs, or one for every "
        "four cores of a large machine; with --ray as many as the cluster has room for.",
        minimum=1,
        maximum=256,
    )
    ray: str | None = _option(
        None,
        "Share the files among actors of a Ray cluster (extra ray): HOST:PORT, or local for one of its own on this "
        "machine; without an ADDRESS $RAY_ADDRESS, else local.",
        bare="auto",
    )
    report: Path | None = _option(None, "Write the JSON document about the run to this file.")

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range."""
        _check(self)
        if self.ray is not None and not _RAY_ADDRESS.fullmatch(self.ray):
            raise OptionError(
                f"ray: '{self.ray}' is no address (HOST:PORT, or local). Give --ray after the inputs, or --ray=ADDRESS."
            )


TRAINING_RATES = {"24k": 24_000, "32k": 32_000, "40k": 40_000, "48k": 48_000}
SIZES = ("auto", "v1", "v2", "small")
VOCODERS = ("auto", "HiFi-GAN", "MRF HiFi-GAN", "RefineGAN", "Source-filter")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """What a new experiment is."""

    sample_rate: str = _option("40k", "The voice's sample rate.", choices=tuple(TRAINING_RATES))
    content: str = _option("contentvec", "Content encoder: contentvec as RVC's voices, menura-starter, or another.")
    f0: str = _option(
        "auto", "F0 method; auto is rmvpe where its weights are installed, else swift.", choices=F0_METHODS
    )
    vocoder: str = _option(
        "auto",
        "Decoder; auto is HiFi-GAN, the only one that RVC WebUI knows, and for small Source-filter, Menura's own, "
        "which learns on a processor.",
        choices=VOCODERS,
    )
    size: str = _option(
        "auto", "Network: RVC's v1 or v2, or small; auto is v2, and small for menura-starter.", choices=SIZES
    )
    config: Path | None = _option(None, "RVC's config file (JSON) with other sizes for that network.")
    pitch: bool = _option(True, "Follow the input's pitch.", flag="--no-pitch")
    slicing: str = _option(
        "silence", "Cut recordings in pauses, in chunks of equal length, or not.", choices=("silence", "chunks", "none")
    )
    slice_length: float = _option(8.0, "Longest slice; the length of chunks.", unit="seconds", minimum=1, maximum=30)
    overlap: float = _option(0.3, "How much of a chunk is in the next one too.", unit="seconds", minimum=0, maximum=4)
    loudness: str = _option(
        "none", "Bring recordings (before slicing) or slices (after) to -23 dB.", choices=("none", "before", "after")
    )
    denoise: float = _option(
        0.0, "Take steady noise out of recordings: hiss, hum, fans. 0 leaves them, 1 takes most.", minimum=0, maximum=1
    )
    high_pass: bool = _option(True, "Take out what is below 48 Hz.", flag="--no-high-pass")
    steps: int | None = _option(
        None,
        "Planned steps; by default 10000, with the vocoder Source-filter 3000.",
        minimum=1,
        maximum=2**53,
    )
    batch_size: int = _option(8, "Rows in a step.", minimum=1, maximum=1024)
    learning_rate: float | None = _option(
        None, "Learning rate to begin with; by default 0.0001, for small 0.0005.", minimum=1e-8, maximum=0.1
    )
    precision: str = _option(
        "auto",
        "auto is bf16 where the device is fast in it, fp16 with scaled losses on NVIDIA's Volta and Turing, else fp32.",
        choices=("auto", *PRECISIONS),
    )
    gradient_checkpointing: bool = _option(False, "Train in less memory but slower: larger batches on small GPUs.")
    base: str = _option(
        "auto",
        "Begin with this voice's weights, or none; auto takes RVC's pretrained files where they are installed, for "
        "small a starter voice.",
    )
    pretrained_g: Path | None = _option(None, "Begin with this generator (RVC's G file) instead.")
    pretrained_d: Path | None = _option(None, "And with these discriminators (RVC's D file).")
    patience: int = _option(
        0,
        "Stop after so many measurements of held-out slices without a better one (0 = never).",
        minimum=0,
        maximum=9999,
    )
    keep: int = _option(
        2, "Training states kept: the newest, and those before it; the best besides.", minimum=1, maximum=1000
    )
    seed: int = _option(0, "Seed; the same seed and data give the same voice.", minimum=0, maximum=2**31 - 1)

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range, or values that exclude each other."""
        _check(self)
        if self.overlap > self.slice_length / 2:
            raise OptionError("overlap: more than half a chunk; take less.")
        if self.pretrained_d is not None and self.pretrained_g is None:
            raise OptionError("pretrained_d: needs --pretrained-g.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a training run goes; what changes the experiment is kept in it."""

    steps: int | None = _option(None, "Plan so many steps in all instead.", minimum=1, maximum=2**53)
    until: int | None = _option(
        None,
        "Stop after this step, without exporting; by default at the planned last one.",
        minimum=1,
        maximum=2**53,
    )
    learning_rate: float | None = _option(None, "Learning rate to begin with instead.", minimum=1e-8, maximum=0.1)
    batch_size: int | None = _option(None, "Rows in a step instead.", minimum=1, maximum=1024)
    precision: str | None = _option(None, "Precision instead of the experiment's.", choices=PRECISIONS)
    patience: int | None = _option(
        None, "Stop after so many measurements without a better one instead (0 = never).", minimum=0, maximum=9999
    )
    dataset: Path | None = _option(None, "The recordings' folder, where it isn't any more where it was.")
    devices: int = _option(
        1, "GPUs that train together, each with a share of every batch (extra `multi-gpu`).", minimum=1, maximum=64
    )
    workers: int | None = _option(
        None, "Processes that prepare; by default the physical cores.", minimum=1, maximum=1024
    )
    index_method: str = _option(
        "auto",
        "auto reduces more than 200 000 vectors to 10 000 by k-means, kmeans always, faiss never.",
        choices=("auto", "faiss", "kmeans"),
    )

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range."""
        _check(self)
