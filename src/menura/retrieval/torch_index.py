"""A retrieval index on a device: faiss's search in torch, without a host's help."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from menura.retrieval.faiss_index import NEIGHBOURS, FaissIndex, Index

_PASS_BYTES = 1 << 26
"""Of what a block of queries fetches: bounds the memory of a search whatever the index."""
_SPARE_CELLS = 7
"""More are looked at than searched: products choose them, in whatever precision, and differences put them in order."""


class TorchIndex(Index):
    """The vectors of a `FaissIndex` on a device, cell by cell; the index itself isn't kept.

    A flat index is one of as many cells as it has vectors, each in the centre of its own.
    """

    def __init__(self, index: FaissIndex, device: torch.device) -> None:
        self.dim, self.size, self.path = index.dim, index.size, index.path
        cells = index.cells()
        self._vectors = torch.from_numpy(cells.vectors).to(device)
        self._centres = self._vectors if cells.centres is None else torch.from_numpy(cells.centres).to(device)
        self._lengths = torch.from_numpy(cells.lengths).to(device)
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._centre_norms = self._centres.square().sum(1)
        self._probes, self._longest = cells.probes, int(cells.lengths.max())
        widest = max(len(self._centres), self.dim * max(self._probes * self._longest, self._probes + _SPARE_CELLS))
        self._rows = max(1, _PASS_BYTES // (4 * widest))

    @property
    def resident_bytes(self) -> int:
        own = () if self._centres is self._vectors else (self._centres,)
        return sum(tensor.nbytes for tensor in (self._vectors, *own, self._lengths, self._starts, self._centre_norms))

    def on_device(self, rate: float) -> Retrieval:
        return Retrieval(self, rate)

    def retrieve(self, content: Tensor) -> Tensor:
        """As `FaissIndex.retrieve`, of (frames, dim) float32 on the device."""
        return torch.cat([self._retrieved(rows) for rows in torch.split(content, self._rows)])

    def _retrieved(self, content: Tensor) -> Tensor:
        distances, places = self.search(content)
        nearest = distances[:, :1]
        weights = torch.where(nearest > 0, (nearest / distances).square(), (distances == 0).float())
        weights = torch.where(distances.isinf(), 0.0, weights)
        weights = weights / weights.sum(1, keepdim=True)
        blended = (weights[:, None] @ self._vectors[places])[:, 0]
        return torch.where(nearest.isinf(), content, blended)

    def search(self, content: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances of the nearest vectors, and their places among all; both (rows, at most 8), in order.

        Of equal distances that of the earlier vector comes first, as in faiss. What is missing is infinitely far.
        """
        cells = self._cells(content)
        within = torch.arange(self._longest, device=content.device)
        lengths = self._lengths[cells][..., None]
        places = (self._starts[cells][..., None] + within).clamp_(max=self.size - 1).flatten(1)
        distances = self._vectors[places].sub_(content[:, None]).square_().sum(2)
        distances = distances.masked_fill((within >= lengths).flatten(1), torch.inf)
        ordered, order = distances.sort(dim=1, stable=True)
        return ordered[:, :NEIGHBOURS], places.gather(1, order[:, :NEIGHBOURS])

    def _cells(self, content: Tensor) -> Tensor:
        """The cells to search, (rows, probes), the nearest first."""
        around = min(self._probes + _SPARE_CELLS, len(self._centres))
        products = torch.addmm(self._centre_norms, content, self._centres.T, alpha=-2)
        near = products.topk(around, largest=False).indices.sort().values
        order = self._centres[near].sub_(content[:, None]).square_().sum(2).sort(stable=True).indices
        return near.gather(1, order[:, : self._probes])


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How much of the content is to come from which index; equal ones may share a pass."""

    index: TorchIndex
    rate: float

    def applied(self, content: Tensor) -> Tensor:
        """(batch, vectors, dim) to (batch, vectors, 2 dim): the blend, and the content as it was."""
        found = self.index.retrieve(content.flatten(0, 1)).view_as(content)
        return torch.cat([found * self.rate + content * (1 - self.rate), content], dim=-1)
