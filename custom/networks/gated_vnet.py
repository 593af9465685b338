"""A V-Net with an attention gate on every skip, which hands out its feature maps and its gates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .doubling import DoublingConv2d, DoublingConv3d

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_UP = {2: DoublingConv2d, 3: DoublingConv3d}
_DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}  # of whole channels
_NORM: dict[str, dict[int, type[nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}


class _Layers:
    """The parts of a network, for one number of axes and one normalisation."""

    def __init__(self, dims: int, norm: str) -> None:
        self.dims, self.norm_of = dims, norm

    def norm(self, channels: int) -> nn.Module:
        return _NORM[self.norm_of][self.dims](channels, affine=True)

    def convs(self, inputs: int, outputs: int, count: int) -> nn.Sequential:
        """``count`` times (convolution 3, normalisation, ReLU)."""
        parts: list[nn.Module] = []
        for i in range(count):
            conv = _CONV[self.dims](inputs if i == 0 else outputs, outputs, 3, padding=1)
            parts += [conv, self.norm(outputs), nn.ReLU(inplace=True)]
        return nn.Sequential(*parts)

    def halve(self, inputs: int, outputs: int) -> nn.Sequential:
        conv = _CONV[self.dims](inputs, outputs, 2, stride=2)
        return nn.Sequential(conv, self.norm(outputs), nn.ReLU(inplace=True))

    def double(self, inputs: int, outputs: int) -> nn.Sequential:
        conv = _UP[self.dims](inputs, outputs)
        return nn.Sequential(conv, self.norm(outputs), nn.ReLU(inplace=True))

    def project(self, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(_CONV[self.dims](inputs, outputs, 1), self.norm(outputs))


class _Gate(nn.Module):
    r"""Additive attention gate :math:`\psi = \sigma(N(W_\psi\,\mathrm{ReLU}(N(W_g g) + N(W_x x))))` in (0, 1).

    :math:`g` comes from below, :math:`x` along the skip, both ``(B, channels, *S)``; :math:`\psi` is ``(B, 1, *S)``.

    References: Oktay et al. 2018, arXiv:1804.03999.
    """

    def __init__(self, layers: _Layers, channels: int, inner: int) -> None:
        super().__init__()
        self.w_g = layers.project(channels, inner)
        self.w_x = layers.project(channels, inner)
        self.w_psi = layers.project(inner, 1)

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return torch.sigmoid(self.w_psi(torch.relu(self.w_g(g) + self.w_x(x))))


class _Open(nn.Module):
    r"""No gate: :math:`\psi = 1`."""

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return torch.ones_like(x[:, :1])


class GatedVNet(nn.Module):
    """V-Net in 2D or 3D whose skips are gated by what comes from below, and added.

    Level i of L has min(i, 3) convolutions on the way down and as many on the way up; strided convolutions of size 2
    halve the grid, transposed ones double it. No residuals. Channel dropout acts on the coarsest map and on the last.
    A gate's inner width is half of its level's width, at level 1 twice.

    Args:
        spatial_dims: 2 or 3.
        in_channels, out_channels: image channels, and classes with the background.
        widths: channels of each level, from the full grid down; two at least.
        dropout: rate of whole channels, in [0, 1).
        norm: "batch" or "instance", of the gates too.
        gates: False leaves every gate open: plain added skips.

    Shape:
        - input ``(B, in_channels, *spatial)``, each spatial size a multiple of ``2 ** (L - 1)``.
        - ``forward``: logits ``(B, out_channels, *spatial)``.
        - ``features``: the logits and ``{"x1": .., "xL": .., "s4": .., "s1": .., "g4": .., "g1": ..}`` for L = 5:
          encoder maps from the full grid down (``xL`` after its dropout), gated skips ``s = g * x``, and the gates
          ``(B, 1, *grid)``; level i has ``widths[i - 1]`` channels on the grid of ``xi``.

    Raises:
        ValueError: an argument outside these; an input whose sizes are not such multiples; by PyTorch, while training,
            a coarsest grid of a single voxel where the norm has nothing else to average over.

    References: Chen et al. 2023, doi 10.1109/TMI.2022.3213372; Milletari et al. 2016, arXiv:1606.04797 (V-Net).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: float = 0.5,
        norm: str = "batch",
        gates: bool = True,
    ) -> None:
        super().__init__()
        if spatial_dims not in _CONV:
            raise ValueError(f"spatial_dims is 2 or 3, got {spatial_dims}")
        if norm not in _NORM:
            raise ValueError(f"norm is 'batch' or 'instance', got {norm!r}")
        if len(widths) < 2:
            raise ValueError(f"widths needs two levels at least, got {list(widths)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is the rate of whole channels, in [0, 1), got {dropout}")
        layers = _Layers(spatial_dims, norm)
        self.multiple = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList([layers.convs(in_channels, widths[0], 1)])
        for level, (above, width) in enumerate(itertools.pairwise(widths), start=2):
            self.down.append(nn.Sequential(layers.halve(above, width), layers.convs(width, width, min(level, 3))))
        self.up, self.gate, self.merge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in range(len(widths) - 1, 0, -1):
            below, width = widths[level], widths[level - 1]
            inner = 2 * width if level == 1 else width // 2
            self.up.append(layers.double(below, width))
            self.gate.append(_Gate(layers, width, inner) if gates else _Open())
            self.merge.append(layers.convs(width, width, min(level, 3)))
        self.dropout = _DROPOUT[spatial_dims](dropout)
        self.out = _CONV[spatial_dims](widths[0], out_channels, 1)

    @torch.jit.export
    def features(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and encoder maps, gated skips and gates by name."""
        self._check(x)
        maps: dict[str, Tensor] = {}
        skips: list[Tensor] = []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
            maps["x" + str(len(skips))] = x
        level = len(skips)
        x = self.dropout(x)
        maps["x" + str(level)] = x
        for up, gate, merge in zip(self.up, self.gate, self.merge):  # noqa: B905 - TorchScript's zip has no `strict`
            level -= 1
            x = up(x)
            psi = gate(x, skips[level - 1])
            skip = psi * skips[level - 1]
            maps["s" + str(level)] = skip
            maps["g" + str(level)] = psi
            x = merge(x + skip)
        return self.out(self.dropout(x)), maps

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[0]

    @torch.jit.ignore
    def probabilities(self, logits: Tensor) -> Tensor:
        """Each class is a sigmoid of its own, background too: they need not sum to 1. Shapes as the logits."""
        return logits.sigmoid()

    def _check(self, x: Tensor) -> None:
        for size in x.shape[2:]:
            if size % self.multiple != 0:
                raise ValueError(
                    f"input {list(x.shape)}: each spatial size must be a multiple of {self.multiple}, which is 2 to the "
                    f"number of widths minus 1; change the patch, or give fewer widths"
                )
