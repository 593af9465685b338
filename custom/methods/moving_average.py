"""A network that follows another one as the moving average of its weights."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

STATISTICS = ("own", "copied")


class MovingAverage(nn.Module):
    r"""Keeps :math:`\theta' \leftarrow a\,\theta' + (1 - a)\,\theta` with :math:`a = \min(1 - 1/(t + 1), decay)`.

    :math:`t` counts the updates from 0, so that the first one copies the network. Parameters are averaged. The copy
    takes no gradient and stays in evaluation mode whatever its owner does. The count is part of the state.

    BatchNorm's running statistics belong to the weights that they were measured with, and an average of weights never
    saw the network's. With ``statistics="own"`` :meth:`teach` normalises by the batch at hand and moves the average's own
    running statistics. In a step in which it is not called its weights move on and nobody measures them: they are
    copied from the network then, before it teaches for the first time and as soon as it teaches no more. With "copied" they
    always are, and no forward pass moves them; :meth:`by_batch` then normalises by the batch at hand all the same.

    Args:
        network: what to follow; it is copied, nothing is shared with it.
        decay: upper bound of :math:`a`, in [0, 1).
        statistics: "own" or "copied".

    Raises:
        ValueError: ``decay`` outside [0, 1); unknown ``statistics``.

    References: Tarvainen and Valpola 2017, arXiv:1703.01780.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99, statistics: str = "copied") -> None:
        super().__init__()
        if statistics not in STATISTICS:
            raise ValueError(f"statistics is one of {list(STATISTICS)}, got {statistics!r}")
        self.statistics = statistics
        if not 0 <= decay < 1:
            raise ValueError(f"decay is in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.taught = self.teaching = False
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> MovingAverage:
        """Evaluation mode always: see the class."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():  # not inference_mode: its tensors cannot enter a loss beside the student's
            return self.network(x)

    def teach(self, x: Tensor) -> Tensor:
        """Logits of weak views, dropout off; with statistics of its own, by those of this batch, which move them."""
        self.taught = self.teaching = True
        norms = [m for m in self.network.modules() if isinstance(m, _BatchNorm)] if self.statistics == "own" else []
        for norm in norms:
            norm.train()
        try:
            return self(x)
        finally:
            for norm in norms:
                norm.eval()

    def stand_by(self) -> None:
        """It would teach in this step, whose batch has nothing for it, perhaps on this rank alone: its statistics stay."""
        self.teaching = True

    @contextlib.contextmanager
    def dropping(self) -> Iterator[None]:
        """Turn dropout on within the block, as in training; everything else stays in evaluation mode."""
        layers = [m for m in self.network.modules() if isinstance(m, _DropoutNd)]
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()

    @contextlib.contextmanager
    def by_batch(self) -> Iterator[None]:
        """Let BatchNorm normalise by the batch at hand within the block; the running statistics stay as they are."""
        norms = [m for m in self.network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        for norm in norms:
            norm.train().track_running_stats = False  # such a layer neither reads nor moves what it holds
        try:
            yield
        finally:
            for norm in norms:
                norm.eval().track_running_stats = True

    @torch.no_grad()
    def copy(self, network: nn.Module) -> None:
        """Take over parameters and buffers as they are, and start to count anew."""
        self.updates, self.taught, self.teaching = 0, False, False
        self.network.load_state_dict(network.state_dict())

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """One update towards ``network``, at the end of an optimiser step: what was taught since the last one counts."""
        self.taught = self.taught and self.teaching
        decay = min(1 - 1 / (self.updates + 1), self.decay)
        ours, theirs = ([p.detach() for p in n.parameters()] for n in (self.network, network))
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for mine, its in zip(self._followed(self.network), self._followed(network), strict=True):
            mine.copy_(its)
        self.updates += 1
        self.teaching = False

    def _followed(self, network: nn.Module) -> list[Tensor]:
        """Buffers that are copied from the network: all, except statistics that the average measures itself."""
        if self.statistics == "copied" or not self.taught:
            return list(network.buffers())
        return [
            buffer
            for module in network.modules()
            if not isinstance(module, _BatchNorm)
            for buffer in module.buffers(recurse=False)
        ]

    def get_extra_state(self) -> dict[str, int]:
        return {"updates": self.updates, "taught": int(self.taught), "teaching": int(self.teaching)}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.updates = state["updates"]
        self.taught = bool(state.get("taught", True))  # of earlier checkpoints: their runs taught from the first step
        # set where an epoch ended with a step that the loss scaler skipped
        self.teaching = bool(state.get("teaching", False))
