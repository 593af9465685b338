"""A network whose answer is known: what is bright, and in which half of each axis of what it sees.

A wrong place, a wrong turn, a wrong scale of intensities or a wrong number format shows in a voxel's value, and nothing
has to be trained. It runs in the product's own ``inference.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import ROOT
from torch import Tensor, nn

BUNDLE = ROOT / "bundles/supervised"
MIDDLE = 0.5  # of the range from 0 to 1 that preprocessing gives


class Halves(nn.Module):
    """Logits of background, and of a class for each of the 2^D corners: ``1 + sum 2^axis [index >= length / 2]``."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.register_buffer("middle", torch.tensor(MIDDLE))

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, *spatial)`` to ``(B, 1 + 2^D, *spatial)``."""
        corner = torch.zeros(image.shape[2:], dtype=torch.long)
        for axis in range(self.dimensions):
            far = (torch.arange(image.shape[2 + axis]) * 2 >= image.shape[2 + axis]).long()
            corner += (far << axis).reshape(-1, *[1] * (self.dimensions - 1 - axis))
        bright = (image[:, 0] >= self.middle).long() * (1 + corner)
        return torch.nn.functional.one_hot(bright, 1 + 2**self.dimensions).movedim(-1, 1).float()


def corners(dimensions: int) -> int:
    return 2**dimensions


def infer(
    run_bundle: Callable[..., Path], images: Path, out: Path, dimensions: int, window: list[int], **task: Any
) -> None:
    """``configs/inference.yaml`` of a bundle on a folder, with :class:`Halves` for a network.

    Args:
        window: of the sliding window: the whole image as the network sees it.
        task: more overrides.
    """
    weights = out.parent / "oracle.pt"
    torch.save(Halves(dimensions).state_dict(), weights)
    count = 1 + corners(dimensions)
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": window, "mode": "constant"}
    if task.get("slices", True) and dimensions == 2:
        inferer |= {"_target_": "SliceInferer", "spatial_dim": 2}
    run_bundle(
        BUNDLE, "run", "configs/inference.yaml",
        **{
            "dataset_dir": str(images), "output_dir": str(out), "model_file": str(weights),
            "network_def": {"_target_": "oracle.Halves", "dimensions": dimensions}, "dimensions": dimensions,
            "classes": [f"class {k}" for k in range(count)], "label_values": list(range(count)), "inferer": inferer,
            "spacing_mm": [-1] * 3, "slices": True, **task,
        },
    )  # fmt: skip
