"""A network that sees one modality of several."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class OneChannel(nn.Module):
    """Hands one channel of an image to ``network``, and puts a background beside the maps that come back.

    The channel is a *buffer*, since files of weights of several such networks load into one ``network_def``, and each
    must then read its own modality, also where all of them come in one image.

    Args:
        network: from 1 channel to one logit map for each of the K - 1 foreground classes.
        channel: number of the modality, from 0.

    Shape:
        - input ``(B, C, *spatial)``, all modalities, of which number ``channel`` is read; or ``(B, 1, *spatial)``, that
          modality alone.
        - returns logits ``(B, K, *spatial)``. That of the background is 0: the largest is then the class whose map is
          the largest of those above sigmoid 0.5, or the background; with one class softmax is sigmoid.

    Raises:
        ValueError: a negative ``channel``.
    """

    channel: Tensor  # TorchScript reads it: a type, not the text that `from __future__ import annotations` makes

    def __init__(self, network: nn.Module, channel: int = 0) -> None:
        super().__init__()
        if channel < 0:
            raise ValueError(f"channel is the number of a modality, counted from 0, got {channel}")
        self.network = network
        self.register_buffer("channel", torch.tensor(channel))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 1:
            x = x.index_select(1, self.channel.reshape(1))  # on the device: no number is read
        maps = self.network(x)
        return torch.cat([torch.zeros_like(maps[:, :1]), maps], dim=1)

    @torch.jit.ignore
    def read(self, channel: int) -> None:
        """Read this channel from now on, whatever loaded weights said."""
        self.channel.fill_(channel)

    @torch.jit.ignore
    def probabilities(self, logits: Tensor) -> Tensor:
        """Each foreground class is a sigmoid of its own; background is what they leave of 1. Shapes as the logits."""
        maps = logits[:, 1:].sigmoid()
        return torch.cat([(1 - maps.sum(dim=1, keepdim=True)).clamp(min=0), maps], dim=1)


def channel_of(network: nn.Module) -> int | None:
    """Return the channel that a :class:`OneChannel` reads; None for any other network, which reads them all."""
    return int(network.channel) if isinstance(network, OneChannel) else None


def reads(network: nn.Module, present: Sequence[bool] | Tensor) -> bool:
    """Return whether a case has the modality of a network; ``present`` says so for each channel.

    A network that reads all channels is never kept from a case: :class:`~.check.Check` refuses what it cannot read.
    """
    channel = channel_of(network)
    return channel is None or bool(present[channel])
