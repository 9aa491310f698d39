"""The processes that train together, as one of them sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from menura.train.learning.batches import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """The processes that train together, as one of them sees them."""

    rank: int = 0
    world: int = 1
    average: Callable[[Tensor], Tensor] | None = None
    """The mean of a tensor over all processes; None where there is one."""

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, example: Example) -> Example:
        """Every `world`-th row of a batch."""
        if self.world == 1:
            return example
        return example.mapped(lambda tensor: tensor[self.rank :: self.world])

    def average_gradients(self, model: nn.Module) -> None:
        """Give all processes the gradients of the whole batch.

        By hand rather than by a wrapped module: the trainer calls parts of the networks, which wrappers don't see.
        """
        if self.average is None:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = self.average(torch.cat([gradient.flatten() for gradient in gradients]))
        means = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
