"""A network that sees one modality of several."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

HALF = 0.5


class OneChannel(nn.Module):
    r"""Hands one channel of an image to ``network``, and puts a background beside the maps that come back.

    The channel is a *buffer*, since files of weights of several such networks load into one ``network_def``, and each
    must then read its own modality, also where all of them come in one image. So is the threshold: from which probability
    on a voxel is a class's, 0.5 in training, another one where :class:`~..training.validation.ServingEvaluator` chose it.

    Args:
        network: from 1 channel to one logit map for each of the K - 1 foreground classes.
        channel: number of the modality, from 0.

    Shape:
        - input ``(B, C, *spatial)``, all modalities, of which number ``channel`` is read; or ``(B, 1, *spatial)``, that
          modality alone.
        - returns logits ``(B, K, *spatial)``, the network's maps less :math:`\mathrm{logit}(threshold)` behind a
          background of 0: the largest is then the class whose map is the largest of those whose sigmoid is above the
          threshold, or the background; with one class and 0.5 softmax is sigmoid.

    Raises:
        ValueError: a negative ``channel``.
    """

    channel: Tensor  # TorchScript reads it: a type, not the text that `from __future__ import annotations` makes
    threshold: Tensor

    def __init__(self, network: nn.Module, channel: int = 0) -> None:
        super().__init__()
        if channel < 0:
            raise ValueError(f"channel is the number of a modality, counted from 0, got {channel}")
        self.network = network
        self.register_buffer("channel", torch.tensor(channel))
        self.register_buffer("threshold", torch.tensor(HALF))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 1:
            x = x.index_select(1, self.channel.reshape(1))  # on the device: no number is read
        maps = self.network(x) - self.threshold.logit()
        return torch.cat([torch.zeros_like(maps[:, :1]), maps], dim=1)

    @torch.jit.ignore
    def read(self, channel: int) -> None:
        """Read this channel from now on, and cut at 0.5, whatever loaded weights said."""
        self.channel.fill_(channel)
        self.cut(HALF)

    @torch.jit.ignore
    def cut(self, threshold: float) -> None:
        """Give a voxel to a class from this probability on."""
        self.threshold.fill_(threshold)

    @torch.jit.ignore
    def probabilities(self, logits: Tensor) -> Tensor:
        """Each foreground class is a sigmoid of its own, whatever the threshold; background is what they leave of 1.
        Shapes as the logits."""
        maps = (logits[:, 1:] + self.threshold.logit()).sigmoid()
        return torch.cat([(1 - maps.sum(dim=1, keepdim=True)).clamp(min=0), maps], dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        """Files of before 2026-12-01 have no threshold: theirs is 0.5."""
        state_dict.setdefault(f"{prefix}threshold", torch.tensor(HALF))
        super()._load_from_state_dict(state_dict, prefix, *more)


def channel_of(network: nn.Module) -> int | None:
    """Return the channel that a :class:`OneChannel` reads; None for any other network, which reads them all."""
    return int(network.channel) if isinstance(network, OneChannel) else None


def reads(network: nn.Module, present: Sequence[bool] | Tensor) -> bool:
    """Return whether a case has the modality of a network; ``present`` says so for each channel.

    A network that reads all channels is never kept from a case: :class:`~.check.Check` refuses what it cannot read.
    """
    channel = channel_of(network)
    return channel is None or bool(present[channel])


def thresholds_of(network: nn.Module, chosen_among: Sequence[float]) -> Sequence[float]:
    """Return the thresholds that a network may be given: those to choose among for a :class:`OneChannel`, else 0.5 alone."""
    return chosen_among if isinstance(network, OneChannel) else (HALF,)


@contextlib.contextmanager
def cut(networks: Mapping[str, nn.Module], thresholds: Mapping[str, float]) -> Iterator[None]:
    """Let networks cut at their thresholds within the block, and at 0.5 after it, as they are trained."""
    ours = {name: net for name, net in networks.items() if isinstance(net, OneChannel) and name in thresholds}
    try:
        for name, network in ours.items():
            network.cut(thresholds[name])
        yield
    finally:
        for network in ours.values():
            network.cut(HALF)
