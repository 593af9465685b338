"""A network that follows another one as the moving average of its weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    r"""Keeps :math:`\theta' \leftarrow a\,\theta' + (1 - a)\,\theta` with :math:`a = \min(1 - 1/(t + 1), decay)`.

    :math:`t` counts the updates from 0, so that the first one copies the network. Parameters are averaged; buffers
    (BatchNorm's running statistics) are copied by value. The copy takes no gradient and stays in evaluation mode
    whatever its owner does, so that a forward pass never moves its statistics. The count is part of the state.

    Args:
        network: what to follow; it is copied, nothing is shared with it.
        decay: upper bound of :math:`a`, in [0, 1).

    Raises:
        ValueError: ``decay`` outside [0, 1).

    References: Tarvainen and Valpola 2017, arXiv:1703.01780.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> MovingAverage:
        """Evaluation mode always: see the class."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():  # not inference_mode: its tensors cannot enter a loss beside the student's
            return self.network(x)

    @torch.no_grad()
    def copy(self, network: nn.Module) -> None:
        """Take over parameters and buffers as they are, and start to count anew."""
        self.updates = 0
        self.network.load_state_dict(network.state_dict())

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """One update towards ``network``."""
        decay = min(1 - 1 / (self.updates + 1), self.decay)
        ours, theirs = ([p.detach() for p in n.parameters()] for n in (self.network, network))
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for mine, its in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(its)
        self.updates += 1

    def get_extra_state(self) -> dict[str, int]:
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.updates = state["updates"]
