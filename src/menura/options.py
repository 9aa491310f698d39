"""Every option once, checked when it is set. Every interface derives from here. Loads no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from menura.errors import OptionError
from menura.option_spec import GROUPS, check, option, spec_of

_voice, _pitch, _sound, _output, _files, _report, _data, _network, _learning, _machine = (
    partial(option, group) for group in GROUPS
)

CONVERSION_PRECISIONS = ("auto", "fp16", "fp32", "exact")
PRECISIONS = ("bf16", "fp16", "fp32")
"""That training computes in."""
F0_METHODS = ("auto", "rmvpe", "fcpe", "crepe", "crepe-tiny", "pm", "swift")
FORMATS = ("wav", "flac", "ogg", "mp3", "opus", "m4a")
_BIT_DEPTHS = {"wav": (16, 24, 32), "flac": (16, 24)}
DEFAULT_VOICE = "wren"
TRAINING_RATES = {"24k": 24_000, "32k": 32_000, "40k": 40_000, "48k": 48_000}
SIZES = ("auto", "v1", "v2", "small")
KEYS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
SCALES = {
    "chromatic": tuple(range(12)),
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic-minor": (0, 2, 3, 5, 7, 8, 11),
    "major-pentatonic": (0, 2, 4, 7, 9),
    "minor-pentatonic": (0, 3, 5, 7, 10),
}
"""Their notes, in semitones above the key."""
VOCODERS = ("auto", "HiFi-GAN", "MRF HiFi-GAN", "RefineGAN", "Source-filter")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionOptions:
    """What one request asks for."""

    voice: str = _voice(
        DEFAULT_VOICE, "Name of a starter or installed voice, or an RVC model file (.pth).", metavar="VOICE"
    )
    index: Path | None = _voice(None, "Retrieval index (.index).", unset="the voice's own")
    index_rate: float | None = _voice(
        None,
        "Strength of the index: 0 is off, 1 replaces the input's content.",
        range=(0, 1),
        unset="0 for clones and other voices of menura-starter content, else 0.75",
    )
    speaker_id: int | str = _voice(
        0,
        "Speaker of a multi-speaker voice: a number, or a name that the voice knows.",
        advanced=True,
        range=(0, 4095),
        named=True,
        metavar="INTEGER|NAME",
    )
    content: str | None = _voice(
        None,
        "Content encoder in place of the voice's own, for files that name a wrong one; any other sounds worse.",
        label="Content encoder",
        advanced=True,
        unset="the voice's own",
        metavar="ENCODER",
    )
    spans: str | None = _voice(
        None,
        "Convert only these spans of the recording, each by a voice of its own: CSV or JSON of start, end and voice, "
        "or RTTM.",
        advanced=True,
        metavar="FILE",
    )
    speakers: str | None = _voice(
        None,
        "Voices of the speakers in the spans: SPEAKER_00=wren,SPEAKER_01=heron.",
        advanced=True,
        metavar="SPEAKER=VOICE,...",
    )
    outside: str = _voice(
        "original", "What is heard outside the spans.", advanced=True, choices=("original", "silence")
    )
    transpose: float | Literal["auto", "auto-batch"] | None = _pitch(
        None,
        "Pitch shift. auto matches each recording's median pitch to the voice's, auto-batch with one shift for all.",
        unit="semitones",
        range=(-48, 48),
        words=("auto", "auto-batch"),
        unset="auto, of recordings converted together one for each speaker; 0 if the voice's pitch is unknown",
    )
    proposed_pitch: float | None = _pitch(
        None,
        "Median pitch that an automatic shift aims at, in place of the voice's.",
        advanced=True,
        unit="Hz",
        range=(50, 1200),
        unset="the voice's own",
    )
    f0: str = _pitch("auto", "Pitch (F0) estimator. auto is rmvpe if installed, else swift.", choices=F0_METHODS)
    f0_file: Path | None = _pitch(
        None, "F0 to use instead of an estimate: a CSV file of 'seconds,hz', CREPE's, or pYIN's.", advanced=True
    )
    f0_repair: str = _pitch(
        "off",
        "Correct high notes that are estimated an octave too low: true_pitch sings them as they are, fold an octave "
        "down, within the range of usual voices.",
        label="High-register repair",
        advanced=True,
        choices=("off", "true_pitch", "fold"),
    )
    f0_ceiling: float = _pitch(
        1250.0,
        "Pitch above which the high-register repair moves notes an octave down.",
        label="Highest pitch",
        advanced=True,
        unit="Hz",
        range=(1000, 2000),
    )
    f0_smoothing: int = _pitch(
        0,
        "Smooth estimated F0 by the median of so many frames on either side; 0 is off.",
        label="Smooth F0",
        advanced=True,
        unit="frames",
        range=(0, 7),
    )
    autotune: float = _pitch(
        0.0, "Move pitch to the nearest note of the key: 0 is off, 1 moves it all the way.", range=(0, 1), bare="1"
    )
    autotune_key: str = _pitch("C", "Key of autotune, as sung in the output.", advanced=True, choices=KEYS)
    autotune_scale: str = _pitch("chromatic", "Scale of autotune.", advanced=True, choices=tuple(SCALES))
    protect: float = _sound(
        0.33, "Protect consonants and breaths from index blending: 0 is strongest, 0.5 is off.", range=(0, 0.5)
    )
    rms_mix_rate: float = _sound(
        1.0, "Volume envelope: 1 keeps the voice's, 0 follows the input's.", label="Volume envelope", range=(0, 1)
    )
    clean_input: float = _sound(
        0.0, "Reduce steady noise of the recording before it is converted: 0 is off, 1 is strongest.", range=(0, 1)
    )
    clean_output: float = _sound(0.0, "Reduce steady noise of the output: 0 is off, 1 is strongest.", range=(0, 1))
    effects: str | None = _sound(
        None,
        "Effects on the output, such as 'reverb room=0.3, limiter', or a preset; `menura effects list` shows all.",
        metavar="EFFECTS",
    )
    channels: str = _sound(
        "mono",
        "mono mixes channels down; stereo converts each; mid converts the middle of two, and keeps the side.",
        choices=("mono", "stereo", "mid"),
    )
    split_silence: bool = _sound(False, "Skip computing silences over 0.5 s; they stay silent.")
    seed: int = _sound(0, "Random seed; the same seed gives the same output.", advanced=True, range=(0, 2**63 - 1))
    noise_scale: float = _sound(1.0, "Scale of the synthesis noise; 1 is RVC's.", advanced=True, range=(0, 4))
    strategy: str = _sound(
        "auto",
        "How recordings are processed: stream in segments (bounded memory), whole in one pass.",
        advanced=True,
        choices=("auto", "stream", "whole"),
    )
    part_length: float = _sound(
        300.0,
        "Split recordings longer than 1.5 times this into parts of about this length.",
        advanced=True,
        unit="seconds",
        range=(1, 86_400),
    )
    compat: str = _sound(
        "menura",
        "Reproduce the output of Applio or RVC WebUI.",
        label="Compatibility",
        advanced=True,
        choices=("menura", "applio", "rvc"),
    )
    format: str | None = _output(None, "Output format.", choices=FORMATS, unset="by the output's name, else wav")
    sample_rate: int | None = _output(
        None, "Output sample rate.", unit="Hz", range=(4000, 384_000), unset="the voice's"
    )
    bitrate: int | None = _output(
        None,
        "Bitrate of mp3, opus and m4a.",
        unit="kbps",
        range=(8, 320),
        unset="variable in mp3, 181 in opus, 160 in m4a",
    )
    quality: float | None = _output(
        None, "Quality of ogg and mp3 at a variable bitrate: 10 is best.", range=(0, 10), unset="7 in ogg, 10 in mp3"
    )
    bit_depth: int | None = _output(
        None, "Bits per sample: 16 or 24 in wav and flac, 32 in wav (floating point).", range=(16, 32), unset="16"
    )

    loudness: float | Literal["source", "voice"] | None = _output(
        None,
        "Loudness of the output, as far as peaks of -1 dB permit: the recording's, the voice's own, or one in LUFS.",
        unit="LUFS",
        range=(-60, -5),
        words=("source", "voice"),
        unset="source, or voice in compatibility modes",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.compat != "menura" and self.strategy == "stream":
            raise OptionError(None, "compatibility modes have no segments", "Leave out {strategy=stream}", "strategy")
        if self.compat != "menura" and self.split_silence:
            raise OptionError(None, "compatibility modes skip nothing", "Leave out {split_silence}", "split_silence")
        if self.compat != "menura" and self.spans is not None:
            raise OptionError(None, "compatibility modes convert whole recordings", "Leave out {spans}", "spans")
        if self.spans is not None and self.channels != "mono":
            raise OptionError(None, "spans are converted in mono", "Leave out {channels}", "channels")
        if self.spans is None and (self.speakers is not None or self.outside != "original"):
            name = "outside" if self.speakers is None else "speakers"
            raise OptionError(None, "there are no spans", "Add {spans}", name)
        if self.bitrate is not None and self.quality is not None:
            raise OptionError(None, "a fixed bitrate has no quality", "Leave out {bitrate}", "quality")
        if self.bit_depth is not None and self.bit_depth not in _BIT_DEPTHS["wav"]:
            raise OptionError(None, f"{self.bit_depth} is not one of 16, 24, 32", option="bit_depth")
        if self.format is not None:
            self.check_format(self.format)

    def check_format(self, format: str) -> None:
        """Raise OptionError for a bitrate, quality or bit depth that this output format doesn't have."""
        depths = _BIT_DEPTHS.get(format, ())
        has = {"bitrate": format in ("mp3", "opus", "m4a"), "quality": format in ("ogg", "mp3"), "bit_depth": depths}
        for name in has:
            if getattr(self, name) is not None and not has[name]:
                raise OptionError(None, f"{format} has no {name.replace('_', ' ')}", f"Leave out {{{name}}}", name)
        if self.bit_depth is not None and self.bit_depth not in depths:
            raise OptionError(None, f"{format} has no {self.bit_depth} bits", "Use {bit_depth=24}", "bit_depth")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a process runs with."""

    device: str = _machine("auto", "cpu, cuda, cuda:N, mps, or auto.", metavar="DEVICE")
    threads: int | None = _machine(
        None, "CPU threads of each process.", range=(1, 1024), unset="$OMP_NUM_THREADS, else the physical cores"
    )
    cudnn: bool = _machine(True, "Use cuDNN on NVIDIA GPUs.", label="Use cuDNN", advanced=True, flag="--no-cudnn")
    precision: str = _machine(
        "auto",
        "Precision of a GPU's arithmetic: fp16, fp32 (convolutions in TF32 on NVIDIA's), exact (no TF32). auto is fp16 "
        "on CUDA from compute capability 7 on, else fp32, which on CPUs is exact.",
        advanced=True,
        choices=CONVERSION_PRECISIONS,
    )
    compile: bool = _machine(
        False,
        "Compile each voice's decoder for an NVIDIA GPU when it is loaded; experimental.",
        label="Compile decoders",
        advanced=True,
    )
    home: Path | None = _machine(
        None,
        "Folder of installed voices and weights.",
        label="Data folder",
        advanced=True,
        unset="$MENURA_HOME, else the system's",
        metavar="FOLDER",
    )

    def __post_init__(self) -> None:
        check(self)


_ray = partial(
    _machine,
    None,
    "Convert on a Ray cluster (extra 'ray'): HOST:PORT, local, or by default $RAY_ADDRESS.",
    advanced=True,
    bare="auto",
    metavar="ADDRESS",
)


def _check_ray(address: str | None, advice: str | None = None) -> None:
    if address is not None and not re.fullmatch(r"auto|local|[^/\s]+:\d+", address):
        raise OptionError(None, f"'{address}' is not an address (HOST:PORT, or local)", advice, "ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Which recordings of folders are converted, and by how many processes."""

    recursive: bool = _files(True, "Include sub-folders.")
    include: tuple[str, ...] = _files(
        (),
        "Only files matching GLOB; repeatable. '*.flac' matches names, 'day1/*' paths below the folder.",
        metavar="GLOB",
    )
    exclude: tuple[str, ...] = _files((), "Skip files matching GLOB; repeatable.", metavar="GLOB")
    force: bool = _files(False, "Convert files again that an earlier run has finished.")
    workers: int | None = _machine(
        None,
        "Processes that share the files of a folder, or the parts of long ones.",
        range=(1, 256),
        unset="1, or one per GPU, or one per 4 CPU cores",
    )
    ray: str | None = _ray()
    report: Path | None = _report(None, "Also write the JSON report to FILE.", advanced=True)

    def __post_init__(self) -> None:
        check(self)
        _check_ray(self.ray, "Put {ray} after the inputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """How files are fetched from the network."""

    endpoint: str | None = _network(
        None, "Mirror of the model hub.", metavar="URL", unset="$HF_ENDPOINT, else https://huggingface.co"
    )
    allow_private: bool = _network(False, "Also fetch from this machine and its own network, and by plain HTTP.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How the service runs."""

    host: str = _network(
        "127.0.0.1", "Address to listen on. Any but this machine's own needs a token.", metavar="ADDRESS"
    )
    port: int = _network(7865, "Port to listen on; 0 takes a free one.", range=(0, 65_535))
    token: str | None = _network(
        None, "Secret that every client must send.", unset="$MENURA_TOKEN, else none", metavar="TEXT"
    )
    allow_host: tuple[str, ...] = _network(
        (),
        "Further host name by which clients may call the service, such as a proxy's; repeatable.",
        advanced=True,
        metavar="NAME",
    )
    fetch: str = _network(
        "local",
        "Whether clients may have voices fetched from https addresses: local is while only this machine's own programs "
        "reach the service (no other --host, no --allow-host).",
        advanced=True,
        choices=("local", "always", "never"),
    )
    data: Path | None = _data(
        None, "Folder of jobs, recordings and results.", unset="'service' in the data folder", metavar="FOLDER"
    )
    database: str | None = _data(
        None,
        "PostgreSQL database (URL) to keep jobs in, which several services may share.",
        advanced=True,
        unset="a file in the folder",
    )
    keep_days: float = _data(
        30.0, "Delete jobs and recordings this long after their end.", unit="days", range=(0.01, 3650)
    )
    keep_gb: float = _data(
        50.0, "Delete the oldest ended jobs and unused recordings beyond this size.", unit="GB", range=(0.1, 1e6)
    )
    most_mb: int = _data(
        2048,
        "Largest file that a client may send.",
        label="Largest upload",
        advanced=True,
        unit="MB",
        range=(1, 1_000_000),
    )
    most_hours: float = _data(
        24.0,
        "Longest recording; one that turns out longer fails.",
        label="Longest recording",
        advanced=True,
        unit="hours",
        range=(0.01, 1000),
    )
    queue: int = _machine(
        5000, "Recordings that may wait; beyond it requests are refused.", advanced=True, range=(1, 10**6)
    )
    ray: str | None = _ray()
    workers: int | None = _machine(
        None,
        "Actors of the Ray cluster that convert, each one recording at a time; needs --ray.",
        advanced=True,
        range=(1, 256),
        unset="as many as it has room for",
    )
    open: bool = _report(False, "Open the page in the browser.")

    def __post_init__(self) -> None:
        check(self)
        _check_ray(self.ray)
        if self.workers is not None and self.ray is None:
            raise OptionError(None, "there is no cluster", "Add {ray}", "workers")
        if self.token is not None and len(self.token) < 8:
            raise OptionError(None, "a token needs at least 8 characters", option="token")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """What a new experiment is."""

    sample_rate: str = _network("40k", "Sample rate of the voice.", unit="Hz", choices=tuple(TRAINING_RATES))
    content: str = _network(
        "contentvec",
        "Content encoder: contentvec (RVC's), menura-starter (light enough for a CPU), or another that is installed.",
        label="Content encoder",
        metavar="ENCODER",
    )
    size: str = _network(
        "auto", "Network: RVC's v1 or v2, or small. auto is small for menura-starter, else v2.", choices=SIZES
    )
    vocoder: str = _network(
        "auto",
        "auto is Source-filter for small networks, else HiFi-GAN, the only one that RVC WebUI reads.",
        choices=VOCODERS,
    )
    pitch: bool = _network(True, "Follow the input's pitch.", label="Follow pitch", flag="--no-pitch")
    f0: str = _data("auto", "Pitch (F0) estimator. auto is rmvpe if installed, else swift.", choices=F0_METHODS)
    config: Path | None = _network(None, "RVC config file (JSON) with other network sizes.", advanced=True)
    slicing: str = _data(
        "silence",
        "Cut recordings at silences, into chunks of equal length, or not at all.",
        choices=("silence", "chunks", "none"),
    )
    slice_length: float = _data(
        8.0, "Longest slice; the length of chunks.", advanced=True, unit="seconds", range=(1, 30)
    )
    overlap: float = _data(0.3, "Overlap of neighbouring chunks.", advanced=True, unit="seconds", range=(0, 4))
    loudness: str = _data(
        "none",
        "Normalize to -23 dB: recordings (before slicing) or slices (after).",
        choices=("none", "before", "after"),
    )
    denoise: float = _data(
        0.0, "Reduce steady noise such as hiss, hum and fans: 0 is off, 1 is strongest.", range=(0, 1)
    )
    high_pass: bool = _data(True, "Remove frequencies below 48 Hz.", advanced=True, flag="--no-high-pass")
    steps: int | None = _learning(None, "Total steps.", range=(1, 2**53), unset="10000; 3000 with Source-filter")
    batch_size: int = _learning(8, "Batch size.", range=(1, 1024))
    learning_rate: float | None = _learning(
        None, "Initial learning rate.", advanced=True, range=(1e-8, 0.1), unset="0.0001; 0.0005 if small"
    )
    precision: str = _learning(
        "auto",
        "auto is bf16 where the device computes it fast, fp16 on NVIDIA Volta and Turing, else fp32.",
        advanced=True,
        choices=("auto", *PRECISIONS),
    )
    gradient_checkpointing: bool = _learning(False, "Save memory at the cost of speed.", advanced=True)
    base: str = _learning(
        "auto",
        "Voice to start from, or none. auto: RVC's pretrained weights if installed; a starter voice if small.",
        label="Start from",
        metavar="VOICE",
    )
    pretrained_g: Path | None = _learning(None, "Pretrained generator to start from (RVC's G file).", advanced=True)
    pretrained_d: Path | None = _learning(
        None, "Pretrained discriminators to start from (RVC's D file).", advanced=True
    )
    patience: int = _learning(0, "Early stopping: validation checks without improvement; 0 is off.", range=(0, 9999))
    keep: int = _learning(
        2,
        "Checkpoints to keep; the best one is always kept.",
        label="Checkpoints to keep",
        advanced=True,
        range=(1, 1000),
    )
    seed: int = _learning(
        0, "Random seed; the same seed and data give the same voice.", advanced=True, range=(0, 2**31 - 1)
    )

    def __post_init__(self) -> None:
        check(self)
        if self.overlap > self.slice_length / 2:
            raise OptionError(None, "more than half of a chunk", "Take less, or a longer {slice_length}", "overlap")
        if self.pretrained_d is not None and self.pretrained_g is None:
            raise OptionError(None, "the generator is missing", "Add {pretrained_g}", "pretrained_d")


def _change(name: str, help: str, **spec: Any) -> Any:
    """The option that changes one of TrainingOptions in an experiment."""
    original = spec_of(TrainingOptions, name)
    spec = {"range": original.range, "advanced": original.advanced, "unset": "the experiment's"} | spec
    return option(original.group, None, help, **spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneOptions:
    """How a starter voice becomes a person's."""

    base: str = _learning(
        "auto",
        "Starter voice to adapt, or another of that kind. auto: the one nearest in pitch.",
        label="Start from",
        metavar="VOICE",
    )
    longest: float = _learning(
        5.0, "Longest time, all in all; then the voice is installed as it is.", unit="minutes", range=(0.5, 600)
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a training run goes; what changes the experiment is kept in it."""

    steps: int | None = _change("steps", "Change the total steps.")
    until: int | None = _learning(
        None, "Stop after this step without exporting.", range=(1, 2**53), unset="the last step"
    )
    batch_size: int | None = _change("batch_size", "Change the batch size.")
    learning_rate: float | None = _change("learning_rate", "Change the initial learning rate.")
    precision: str | None = _change("precision", "Change the precision.", choices=PRECISIONS)
    patience: int | None = _change("patience", "Change early stopping; 0 is off.")
    dataset: Path | None = _data(None, "New location of the recordings.", metavar="FOLDER", unset="the experiment's")
    index_method: str = _data(
        "auto",
        "Reduce large indexes to 10,000 k-means centres: auto above 200,000 vectors, kmeans above 10,000, faiss never.",
        advanced=True,
        choices=("auto", "faiss", "kmeans"),
    )
    devices: int = _machine(
        1, "GPUs that train together; each takes a share of the batch (extra 'multi-gpu').", range=(1, 64)
    )
    workers: int | None = _machine(
        None, "Processes that prepare the data.", advanced=True, range=(1, 1024), unset="the physical cores"
    )

    def __post_init__(self) -> None:
        check(self)
