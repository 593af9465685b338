"""How fast this machine multiplies in convolutions: the floor of a step."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import torch
from torch import nn

from .turns import answer, keep_stdout, wait

LEVELS = {2: [(16, 160), (32, 80), (64, 40), (128, 20)], 3: [(16, 48), (32, 24), (64, 12)]}
BATCH = {2: 16, 3: 4}
REPEATS = 3


def rate(dimensions: int, channels: int, side: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP a second of a convolution of three taps an axis, forward and backward, as networks are laid out."""
    kind = nn.Conv2d if dimensions == 2 else nn.Conv3d
    layout = torch.channels_last if dimensions == 2 else torch.channels_last_3d
    layer = kind(channels, channels, 3, padding=1).to(device, memory_format=layout)  # type: ignore[call-overload]
    shape = (BATCH[dimensions], channels, *[side] * dimensions)
    x = torch.randn(shape, device=device).to(memory_format=layout).requires_grad_()
    flops = 3 * 2 * math.prod(shape) * channels * 3**dimensions
    best = math.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            y = layer(x)
        y.backward(torch.ones_like(y))
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return flops / best


def main(spec: dict[str, Any]) -> None:
    """A turn measures every level; the best of them counts."""
    keep_stdout()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    while True:
        wait()
        answer(
            rate=max(
                rate(spec["dimensions"], *level, getattr(torch, spec["format"]), device)
                for level in LEVELS[spec["dimensions"]]
            )
        )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
