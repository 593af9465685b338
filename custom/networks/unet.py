"""A U-Net whose dropout rate is chosen level by level, and which hands out its feature maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .doubling import DoublingConv2d, DoublingConv3d
from .merging import Merge

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_UP = {2: DoublingConv2d, 3: DoublingConv3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_NORM: dict[str, dict[int, type[nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}


def _double_conv(dims: int, inputs: int, outputs: int, dropout: float, norm: str) -> list[nn.Module]:
    """Twice (convolution 3, normalisation, LeakyReLU 0.01), with dropout of single values in between."""

    def norm_layer() -> nn.Module:
        return _NORM[norm][dims](outputs, affine=True)

    conv = _CONV[dims]
    return [
        conv(inputs, outputs, 3, padding=1), norm_layer(), nn.LeakyReLU(0.01, inplace=True),
        nn.Dropout(dropout) if dropout > 0 else nn.Identity(),
        conv(outputs, outputs, 3, padding=1), norm_layer(), nn.LeakyReLU(0.01, inplace=True),
    ]  # fmt: skip


class UNet(nn.Module):
    """U-Net in 2D or 3D: max-pooling down, transposed convolution up, skips concatenated.

    Args:
        spatial_dims: 2 or 3.
        in_channels, out_channels: image channels, and classes with the background.
        widths: channels of each level, from the full grid down; each level halves the grid.
        dropout: rate between the two convolutions of each encoder level; one number serves all levels.
        norm: "batch" or "instance".

    Shape:
        - input ``(B, in_channels, *spatial)``, each spatial size a multiple of ``2 ** (len(widths) - 1)``.
        - ``forward``: logits ``(B, out_channels, *spatial)``.
        - ``features``: the logits and ``{"e1": .., "e5": .., "d4": .., "d1": ..}``: encoder maps from the full grid
          down, decoder maps up again; ``d1`` (``widths[0]`` channels, full grid) is what the last convolution sees.

    Raises:
        ValueError: an argument outside these, or as many dropout rates as there are not levels.

    References: Ronneberger et al. 2015, arXiv:1505.04597.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: float | Sequence[float] = (0.0, 0.0, 0.1, 0.2, 0.3),
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if spatial_dims not in _CONV:
            raise ValueError(f"spatial_dims is 2 or 3, got {spatial_dims}")
        if norm not in _NORM:
            raise ValueError(f"norm is 'batch' or 'instance', got {norm!r}")
        levels = len(widths)
        rates = [float(dropout)] * levels if isinstance(dropout, (int, float)) else [float(r) for r in dropout]
        if len(rates) != levels:
            raise ValueError(
                f"dropout has {len(rates)} rates {rates} for {levels} widths {list(widths)}; give one a level"
            )
        self.down = nn.ModuleList(
            nn.Sequential(*_double_conv(spatial_dims, before, width, rate, norm))
            for before, width, rate in zip([in_channels, *widths], widths, rates, strict=False)
        )
        self.pool = _POOL[spatial_dims](2)
        coarse_to_fine = list(reversed(widths))
        pairs = list(itertools.pairwise(coarse_to_fine))
        self.up = nn.ModuleList(_UP[spatial_dims](below, width) for below, width in pairs)
        self.merge = nn.ModuleList(
            Merge(*_double_conv(spatial_dims, 2 * width, width, 0.0, norm)) for _, width in pairs
        )
        self.out = _CONV[spatial_dims](widths[0], out_channels, 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The encoder's maps, from the full grid down."""
        maps: list[Tensor] = []
        for level, stage in enumerate(self.down):
            if level > 0:
                x = self.pool(x)
            x = stage(x)
            maps.append(x)
        return maps

    def _decoder_maps(self, encoded: list[Tensor]) -> list[Tensor]:
        """The decoder's maps, from the coarsest up to the full grid."""
        x, finer = encoded[-1], len(encoded) - 1
        maps: list[Tensor] = []
        for up, merge in zip(self.up, self.merge):  # noqa: B905 - TorchScript's zip has no `strict`
            finer -= 1
            x = merge(encoded[finer], up(x))
            maps.append(x)
        return maps

    def decode(self, encoded: list[Tensor]) -> Tensor:
        """Logits from the encoder's maps, as :meth:`encode` returns them."""
        return self.out((encoded + self._decoder_maps(encoded))[-1])

    @torch.jit.export
    def features(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the map of every level by name."""
        maps: dict[str, Tensor] = {}
        encoded = self.encode(x)
        for level, encoder_map in enumerate(encoded):
            maps["e" + str(level + 1)] = encoder_map
        decoded = self._decoder_maps(encoded)
        for level, decoder_map in enumerate(decoded):
            maps["d" + str(len(decoded) - level)] = decoder_map
        return self.out((encoded + decoded)[-1]), maps

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[0]
