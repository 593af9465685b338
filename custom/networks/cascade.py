"""Two networks in a row: the second one sees the image and what the first one made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .unet import UNet


class Cascade(nn.Module):
    r"""Coarse logits :math:`z^C = f_C(x)`, refined logits :math:`z^R = f_R([x;\, \mathrm{softmax}(z^C)])`.

    The networks share no weights. ``forward`` gives one of the two answers: the refined one, or the coarse one where
    the buffer ``answers_coarse`` says so. The buffer lies in the state dict, so that the files of both answers load
    into the same network.

    Args:
        coarse: takes the image.
        refined: takes the image's channels and, after them, one channel a class.
        detach: whether the refined network's gradient stops at the coarse probabilities.

    Shape:
        - input ``(B, C, *spatial)``; the coarse network has C input channels and K outputs, the refined one C + K
          and K.
        - ``forward``: logits ``(B, K, *spatial)``.
        - ``features``: coarse logits, refined logits, and the refined network's last decoder map
          ``(B, D, *spatial)``.

    Raises:
        ValueError: numbers of channels that do not fit together.
    """

    def __init__(self, coarse: UNet, refined: UNet, detach: bool = False) -> None:
        super().__init__()
        (inputs, classes), (taken, given) = _channels(coarse), _channels(refined)
        if taken != inputs + classes:
            raise ValueError(
                f"the refined network takes {taken} channels, expected {inputs + classes}: {inputs} of the image and "
                f"{classes} coarse probabilities; give it in_channels {inputs + classes}"
            )
        if given != classes:
            raise ValueError(f"the coarse network has {classes} classes, the refined one {given}: give both as many")
        self.coarse = coarse
        self.refined = refined
        self.detach = detach
        self.answers_coarse: Tensor
        self.register_buffer("answers_coarse", torch.tensor(False))

    @torch.jit.export
    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coarse logits, refined logits, the refined network's last decoder map."""
        coarse = self.coarse(x)
        probabilities = coarse.softmax(dim=1)
        if self.detach:
            probabilities = probabilities.detach()
        refined, maps = self.refined.features(torch.cat([x, probabilities.to(x.dtype)], dim=1))
        return coarse, refined, maps["d1"]

    def forward(self, x: Tensor) -> Tensor:
        coarse, refined, _ = self.features(x)
        return torch.where(self.answers_coarse, coarse, refined)  # not `if`: ONNX and torch.export trace no branch

    def coarse_view(self) -> Cascade:
        """A cascade of the same two networks, nothing copied, that answers coarse."""
        view = _CoarseAnswer(self.coarse, self.refined, self.detach)
        view.answers_coarse = torch.ones_like(self.answers_coarse)
        view.training = self.training
        return view


class _CoarseAnswer(Cascade):
    """Always the coarse answer, at the cost of the coarse network alone."""

    def forward(self, x: Tensor) -> Tensor:
        return self.coarse(x)


def _channels(network: UNet) -> tuple[int, int]:
    """Numbers of input and output channels."""
    convolutions = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))]
    return convolutions[0].in_channels, convolutions[-1].out_channels
