"""A transposed convolution that doubles the grid, with a gradient that costs no more than its forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CONV = {2: F.conv2d, 3: F.conv3d}
_LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}


class DoublingConv2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d(inputs, outputs, 2, stride=2)``: the same weights, the same answer, see :func:`doubled`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if torch.jit.is_scripting():
            return F.conv_transpose2d(x, self.weight, self.bias, stride=2)
        return doubled(x, self.weight, self.bias) if _pays(x) else super().forward(x)


class DoublingConv3d(nn.ConvTranspose3d):
    """``nn.ConvTranspose3d(inputs, outputs, 2, stride=2)``: the same weights, the same answer, see :func:`doubled`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if torch.jit.is_scripting():
            return F.conv_transpose3d(x, self.weight, self.bias, stride=2)
        return doubled(x, self.weight, self.bias) if _pays(x) else super().forward(x)


def doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The transposed convolution of size 2 and stride 2 of ``x (B, I, *S)``, channels last: ``(B, O, *2S)``.

    No two of its windows overlap, so each value goes through one matrix: a convolution of size 1 to 2^d O channels, which are
    then put beside each other. ``weight`` is ``(I, O, 2, ..)``, ``bias`` ``(O,)``.
    """
    axes = x.dim() - 2
    outputs, corners = weight.shape[1], 2**axes
    spatial = list(range(2, 2 + axes))
    matrix = weight.permute(*spatial, 1, 0).reshape(corners * outputs, -1, *[1] * axes)
    y = _CONV[axes](x, matrix, None if bias is None else bias.repeat(corners))
    batch, size = x.shape[0], x.shape[2:]
    y = y.movedim(1, -1).reshape(batch, *size, *[2] * axes, outputs)
    interleaved = [axis for i in range(axes) for axis in (1 + i, 1 + axes + i)]
    y = y.permute(0, *interleaved, -1).reshape(batch, *[2 * n for n in size], outputs)
    return y.movedim(-1, 1)


def _pays(x: Tensor) -> bool:
    """Whether it is bfloat16 on a CPU, where the stock layer's weight gradient takes up to eight times its forward pass
    (16 of 230 GFLOP/s on the finest level of a U-Net, 2D and 3D alike); in float32 it does not."""
    return (
        x.dtype is torch.bfloat16
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and x.is_contiguous(memory_format=_LAYOUT[x.dim() - 2])
    )
