"""Attention and WaveNet's gate on the kernels: signals are (steps, padded channels) float32 tensors, time-major."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from menura.kernels.library import Algorithm, AttentionArguments, GatingArguments, KernelLibrary, address
from menura.kernels.packing import pack_convolution, padded_channels

_WORKSPACE_STEPS = 64
"""Rows of the workspace beyond the signal's: see `cpp/menura_kernels.h`."""


def spread(weight: Tensor, groups: int) -> Tensor:
    """(groups * channels, ...) to (groups * padded channels, ...): zeros after the channels of every head, or half."""
    channels = weight.shape[0] // groups
    missing = padded_channels(channels) - channels
    if not missing:
        return weight
    parts = weight.reshape(groups, channels, -1)
    return F.pad(parts, (0, 0, 0, missing)).reshape(groups * (channels + missing), *weight.shape[1:])


class Attention:
    """Self-attention of some heads with learned vectors for near distances (Shaw et al., 2018)."""

    def __init__(self, library: KernelLibrary, near_keys: Tensor, near_values: Tensor, heads: int) -> None:
        """Pack vectors (2 * window + 1, head channels) by distance from -window, added to keys and to values."""
        rows, channels = near_keys.shape
        self._library, self._heads, self._window = library, heads, rows // 2
        self._near_keys = pack_convolution(near_keys[:, :, None], Algorithm.DIRECT, library.panel_channels)
        self._near_values = pack_convolution(near_values.T[:, :, None], Algorithm.DIRECT, library.panel_channels)
        self._head_channels = padded_channels(channels)
        self._scale = channels**-0.5

    @property
    def channels(self) -> int:
        """Of all heads, padded."""
        return self._heads * self._head_channels

    def __call__(self, projected: Tensor, output: Tensor, reach: int | None) -> Tensor:
        """Queries, keys and values (steps, 3 * channels), each head by head, to `output` (steps, channels), returned.

        `reach`: steps on each side that a step attends to, at least the window; None for all.
        """
        steps, pitch = projected.shape
        workspace = projected.new_empty(2 * self.channels * (steps + _WORKSPACE_STEPS))
        query, size = address(projected, 3 * self.channels), projected.element_size()
        arguments = AttentionArguments(
            query=query,
            key=query + self.channels * size,
            value=query + 2 * self.channels * size,
            output=address(output, self.channels),
            near_keys=self._near_keys.data_ptr(),
            near_values=self._near_values.data_ptr(),
            workspace=workspace.data_ptr(),
            steps=steps,
            pitch=pitch,
            output_pitch=output.shape[1],
            reach=max(self._window, steps if reach is None else min(reach, steps)),
            heads=self._heads,
            head_channels=self._head_channels,
            window=self._window,
            scale=self._scale,
        )
        self._library.call("menura_attend", arguments)
        return output


def gate(library: KernelLibrary, x: Tensor, output: Tensor) -> Tensor:
    """The tanh of the first half of x (steps, 2 * channels) times the sigmoid of the second, into (steps, channels)."""
    arguments = GatingArguments(
        input=address(x, 2 * output.shape[1]),
        output=address(output),
        steps=x.shape[0],
        channels=output.shape[1],
    )
    library.call("menura_gate", arguments)
    return output
