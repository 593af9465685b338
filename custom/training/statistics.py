"""Normalisation statistics of clean labelled patches, for networks that validate, serve or are written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..networks.one_channel import reads
from ..stream.stream import Stream
from .precision import autocast, autocast_dtype


class CleanStatistics:
    r"""Re-estimates BatchNorm's running statistics over a fixed set of labelled patches, without augmentation.

    What a network saw last while it trained are mixed, noisy and strongly augmented patches, and a moving average of
    weights has never seen its own activations: running statistics of either say little of a clean scan. Here they are the
    plain mean over ``batches`` batches of

    .. math:: \mu = \frac{1}{n} \sum_b \mu_b, \quad \sigma^2 = \frac{1}{n} \sum_b \sigma_b^2

    with dropout off. The batches are a function of the seed alone: the same at every call, on every rank and after a resume.
    Nothing of the training's state is touched.

    Args:
        stream: of clean labelled patches; one that no other part draws from.
        batches: n; 0 leaves the running statistics as they are.
        amp: as the trainer's.
    """

    def __init__(self, stream: Stream, batches: int = 16, amp: str = "off") -> None:
        if batches < 0:
            raise ValueError(f"statistics::batches is a number of batches >= 0, got {batches}")
        self.stream, self.batches, self.dtype = stream, batches, autocast_dtype(amp, stream.device)
        self._estimated: dict[str, dict[str, Tensor]] = {}

    def forget(self) -> None:
        """Weights have changed: estimate anew at the next call."""
        self._estimated = {}

    @contextlib.contextmanager
    def applied(self, networks: Mapping[str, nn.Module]) -> Iterator[None]:
        """Let the networks carry their re-estimated statistics within the block, and those that they had after it."""
        kept = {name: _statistics(network) for name, network in networks.items()}
        try:
            for name, network in networks.items():
                if self.batches and kept[name]:
                    if name not in self._estimated:
                        self._estimated[name] = self._estimate(network)
                    _set(network, self._estimated[name])
            yield
        finally:
            for name, network in networks.items():
                _set(network, kept[name])

    @torch.no_grad()
    def _estimate(self, network: nn.Module) -> dict[str, Tensor]:
        """Statistics of all layers, by name. A layer that no patch reaches keeps those that it has: never 0 and 1, nor in the
        place of those that another network, which shares the layer and does reach it, was given before."""
        before = _statistics(network)
        norms = [
            module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        momenta, modes = [norm.momentum for norm in norms], {m: m.training for m in network.modules()}
        state = torch.get_rng_state()  # nothing here draws from it, but a network might
        network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean
            norm.train()
        try:
            self.stream.start(0)
            waiting: list[Tensor] = []
            for _ in range(self.batches):
                batch = self.stream.draw()
                assert batch.present is not None, "a stream says which channels there are"
                there = torch.tensor([reads(network, row) for row in batch.present], device=batch.image.device)
                images = torch.cat([*waiting, batch.image[there]]) if waiting else batch.image[there]
                # of one patch alone the coarsest maps may have a single value a channel: it waits for the next one
                waiting = [images] if len(images) < 2 else []
                if not waiting:
                    with autocast(self.dtype, images.device):
                        network(images)
        finally:
            torch.set_rng_state(state)
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for module, mode in modes.items():
                module.training = mode
        found = _statistics(network)
        return {key: value if found[_counter(key)] > 0 else before[key] for key, value in found.items()}


def applied(
    statistics: CleanStatistics | None, networks: Mapping[str, nn.Module]
) -> contextlib.AbstractContextManager[None]:
    """:meth:`CleanStatistics.applied`, where there are any."""
    return contextlib.nullcontext() if statistics is None else statistics.applied(networks)


def _statistics(network: nn.Module) -> dict[str, Tensor]:
    """Copies of all running statistics, by name."""
    return {
        f"{name}.{key}": buffer.clone()
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
        for key, buffer in module.named_buffers(recurse=False)
    }


def _counter(key: str) -> str:
    return f"{key.rpartition('.')[0]}.num_batches_tracked"


def _set(network: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    buffers = dict(network.named_buffers())
    for name, value in statistics.items():
        buffers[name].copy_(value)
