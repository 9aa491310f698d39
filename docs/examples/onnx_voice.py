"""Sound of content and F0, by a voice exported with `menura voices export VOICE --format onnx`.

    python onnx_voice.py VOICE.json features.npz out.wav

features.npz has `content` (vectors, dim), 50 a second, and `f0_hz` (frames,), 100 a second, 0 where unvoiced.
Needs numpy and onnxruntime.
"""

import json
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime


def mel(hz):
    return 1127 * np.log1p(np.asarray(hz, dtype=np.float64) / 700)


description, features, target = Path(sys.argv[1]), np.load(sys.argv[2]), sys.argv[3]
about, noise = json.loads(description.read_text(encoding="utf-8")), np.random.default_rng(0)
f0_hz = features["f0_hz"].astype(np.float32)
content = np.repeat(features["content"], 2, axis=0)[: len(f0_hz)]
inputs = {"content": content[None], "speaker_id": np.zeros(1, np.int64), "phase_cycles": np.zeros(1)}
inputs["f0_hz"] = f0_hz = f0_hz[None, : len(content)]
inputs["f0_coarse"] = np.rint(np.clip((mel(f0_hz) - mel(50)) * 254 / (mel(1100) - mel(50)) + 1, 1, 255)).astype(int)
inputs["latent_noise"] = noise.standard_normal((1, about["latent_channels"], f0_hz.shape[1]), np.float32)
inputs["source_noise"] = noise.standard_normal((1, f0_hz.shape[1] * about["frame_samples"]), np.float32)
for part in ("encoder", "decoder"):
    session = onnxruntime.InferenceSession(description.with_name(about[part]), providers=["CPUExecutionProvider"])
    wanted = {one.name: inputs[one.name] for one in session.get_inputs()}
    inputs |= dict(zip((one.name for one in session.get_outputs()), session.run(None, wanted), strict=True))
with wave.open(target, "wb") as file:
    file.setparams((1, 2, about["sample_rate"], 0, "NONE", ""))
    file.writeframes((inputs["sound"][0].clip(-1, 1) * 32767).astype("<i2").tobytes())
