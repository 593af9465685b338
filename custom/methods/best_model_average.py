"""A teacher that follows a network only in the epochs in which it does better than before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NORMS = ("batch", "averaged")


class BestModelAverage(nn.Module):
    r"""Keeps the ``size`` best validation scores of a network, and an average of its weights at them.

    The first ``size`` scores fill the pool; at the next one, which does not enter it, the teacher takes the network's
    weights. From then on a score :math:`d` above the least of the pool, :math:`d_{min}`, takes its place, and

    .. math:: \theta' \leftarrow \rho\,\theta' + (1 - \rho)\,\theta, \quad
              \rho = \min\left(1 - \frac{d - d_{min}}{d}, 0.99\right)

    Any other score changes nothing. The teacher takes no gradient and draws with its dropout on, whatever mode its
    owner is in. Scores and weights are part of the state; a score is a number on the host, no device is asked.

    Args:
        network: the teacher's own, with its dropout; the parameters have the shapes of the network that it follows.
        size: of the pool.
        norm: how BatchNorm is computed: "batch", by the statistics of the images at hand; "averaged", by running
            statistics that are averaged as the weights are. Without BatchNorm there is no difference.

    Raises:
        ValueError: ``size`` below 1; an unknown ``norm``.

    References: Zhang et al. 2023, Medical Image Analysis 83:102656.
    """

    def __init__(self, network: nn.Module, size: int = 6, norm: str = "batch") -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"the pool holds at least one score, got {size}")
        if norm not in NORMS:
            raise ValueError(f"teacher_norm is one of {list(NORMS)}, got {norm!r}")
        self.size, self.norm = size, norm
        self.network = network.requires_grad_(False)
        if norm == "batch":
            for module in self._batch_norms():
                _without_running_statistics(module)
        self.pool: list[float] = []
        self.started = False  # whether the network was taken over
        self.train()

    def train(self, mode: bool = True) -> BestModelAverage:
        """Training mode always, for the dropout; BatchNorm as ``norm`` says."""
        super().train(True)
        for module in self._batch_norms():
            module.train(self.norm == "batch")
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def see(self, score: float, network: nn.Module) -> None:
        """One validation of ``network``."""
        if len(self.pool) < self.size and not self.started:
            self.pool.append(score)
        elif not self.started:
            self.copy(network)
        elif score > min(self.pool):
            least = min(self.pool)
            self.pool[self.pool.index(least)] = score
            self._follow(network, rho=min(1 - (score - least) / score, 0.99))

    def copy(self, network: nn.Module) -> None:
        """Take over the network as it is, whatever the pool holds."""
        self._follow(network, rho=0.0)
        self.started = True

    @torch.no_grad()
    def _follow(self, network: nn.Module, rho: float) -> None:
        theirs = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        ours = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        for name, tensor in ours.items():
            if tensor.is_floating_point():
                tensor.lerp_(theirs[name], 1 - rho)
            else:
                tensor.copy_(theirs[name])

    def _batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self.network.modules() if isinstance(module, _BatchNorm)]

    def get_extra_state(self) -> dict[str, Any]:
        return {"pool": list(self.pool), "started": self.started}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.pool, self.started = list(state["pool"]), state["started"]


def _without_running_statistics(module: _BatchNorm) -> None:
    """It then takes the statistics of the batch, and a forward pass leaves no trace in it."""
    module.track_running_stats = False
    module.running_mean = module.running_var = module.num_batches_tracked = None
