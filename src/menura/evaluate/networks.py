"""Networks that judge recordings. None is shipped: each is looked for, and its absence says what to install."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from menura.checkpoints.pickles import load_tensors
from menura.errors import AssetMissingError, CheckpointError
from menura.models.mel import magnitude_spectrogram, mel_filterbank, reflect_pad
from menura.system.device import silence_onnxruntime
from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ
from menura.voices.assets import find_asset

_MELS, _FFT, _HOP = 40, 400, 160
_WIDTH, _LAYERS = 256, 3
_PART_FRAMES, _STEP_FRAMES = 160, 77
_LEVEL_DB = -30.0
_KEEP_DB, _FLOOR_DB, _GATE_SAMPLES, _GATE_REACH = 35.0, -60.0, 480, 6
_DNSMOS_SAMPLES = 144_160
_DNSMOS_CURVES = {"signal": (-0.08397278, 1.22083953, 0.0052439), "background": (-0.13166888, 1.60915514, -0.39604546),
                  "overall": (-0.06766283, 1.11546468, 0.04602535)}  # fmt: skip
"""From the network's outputs to opinion scores (Reddy et al., 2022)."""


class SpeakerEncoder(nn.Module):
    """GE2E (Wan et al., 2018): three LSTM layers over mel spectra, in Resemblyzer's layout."""

    bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, _WIDTH, _LAYERS, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)
        rate = ANALYSIS_RATE_HZ
        bank = mel_filterbank(sample_rate=rate, n_fft=_FFT, n_mels=_MELS, low_hz=0.0, high_hz=rate / 2)
        self.register_buffer("bank", bank, persistent=False)

    @classmethod
    def load(cls, home: Path | None = None) -> SpeakerEncoder:
        """Read the weights.

        Raises:
            AssetMissingError: they are not installed.
            CheckpointError: the file is another network's.
        """
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
        parts = mel.unfold(0, _PART_FRAMES, _STEP_FRAMES).transpose(1, 2)
        _, (hidden, _) = self.lstm(parts)
        each = nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)
        mean: FloatArray = nn.functional.normalize(each.mean(dim=0), dim=0).numpy()
        return mean


def without_silence(samples: FloatArray) -> FloatArray:
    """The stretches of (samples,) at 16 kHz within 35 dB of the loudest, and a little around them."""
    blocks = samples[: len(samples) // _GATE_SAMPLES * _GATE_SAMPLES].reshape(-1, _GATE_SAMPLES)
    if len(blocks) < 4:
        return samples
    level = 10 * np.log10(np.mean(np.square(blocks), axis=1) + 1e-10)
    loud = level > max(float(np.percentile(level, 95)) - _KEEP_DB, _FLOOR_DB)
    kept = np.convolve(loud, np.ones(2 * _GATE_REACH + 1), mode="same") > 0
    return blocks[kept].ravel() if kept.any() else samples


class Naturalness:
    """DNSMOS: opinion scores that a network predicts."""

    def __init__(self, home: Path | None = None) -> None:
        """Load the network.

        Raises:
            AssetMissingError: it is not installed.
        """
        silence_onnxruntime()
        import onnxruntime

        weights = str(find_asset("dnsmos", home))
        self._session = onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])

    def scores(self, samples: FloatArray) -> dict[str, float] | None:
        """Of a recording (samples,) at 16 kHz: signal, background and overall, 1 to 5; None for silence."""
        peak = float(np.abs(samples).max(initial=0.0))
        if peak == 0:
            return None
        audio = samples * min(1.0, 0.99 / peak)
        audio = np.tile(audio, -(-_DNSMOS_SAMPLES // len(audio)))[: max(len(audio), _DNSMOS_SAMPLES)]
        starts = range(0, len(audio) - _DNSMOS_SAMPLES + 1, ANALYSIS_RATE_HZ)
        parts = [audio[None, at : at + _DNSMOS_SAMPLES].astype(np.float32) for at in starts]
        rows = [self._session.run(None, {"input_1": part})[0][0] for part in parts]
        means = [np.polyval(curve, np.array(rows)[:, i]).mean() for i, curve in enumerate(_DNSMOS_CURVES.values())]
        return dict(zip(_DNSMOS_CURVES, map(float, means), strict=True))


class Recogniser:
    """Whisper, run by faster-whisper."""

    def __init__(self, home: Path | None = None) -> None:
        """Load the network.

        Raises:
            AssetMissingError: faster-whisper or its weights are not installed.
        """
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            advice = "pip install 'menura[evaluate]'"
            raise AssetMissingError(None, "faster-whisper is not installed", advice) from None
        weights = str(find_asset("whisper", home))
        self._model: Any = WhisperModel(weights, device="cpu", compute_type="float32")

    def transcribe(self, samples: FloatArray) -> str:
        """What is said in a recording (samples,) at 16 kHz."""
        samples = np.pad(samples, ANALYSIS_RATE_HZ // 4)  # words at the very edge are often lost
        segments, _ = self._model.transcribe(samples, beam_size=5, temperature=0.0, condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments)
