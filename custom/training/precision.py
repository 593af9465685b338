"""Which number format a run computes in."""

from __future__ import annotations

import contextlib
import logging
from contextlib import AbstractContextManager

import torch
from torch import nn

from ..errors import nearest

CHOICES = ("auto", "bf16", "fp16", "off")
FAST_CUDNN = 91500  # 9.15: before it a 3D convolution in 16 bits takes up to four times as long

logger = logging.getLogger(__name__)


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """The format of autocast, or None for float32 throughout.

    ``auto`` takes bfloat16 on a GPU that computes in it, else float16; on a CPU it takes bfloat16 only where the
    processor has the units (AVX512_BF16 or AMX): emulated it is ten times slower than float32.

    Raises:
        ValueError: ``amp`` is not one of auto, bf16, fp16, off.
    """
    amp = "off" if amp is False else amp  # YAML reads a bare `off` as False
    if amp not in CHOICES:
        raise ValueError(f"amp is one of {list(CHOICES)}, got {amp!r}{nearest(str(amp), CHOICES)}")
    if amp == "off":
        return None
    if amp != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else None


def name(dtype: torch.dtype | None) -> str:
    """Return the choice of ``amp`` that always means this format: bf16, fp16 or off."""
    return {None: "off", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def warn_of_slow_convolutions(networks: nn.Module, dtype: torch.dtype | None, device: torch.device) -> None:
    """Log a warning where 3D convolutions in 16 bits are slow on this GPU, for a cuDNN older than 9.15."""
    if dtype is None or device.type != "cuda" or not any(isinstance(part, nn.Conv3d) for part in networks.modules()):
        return
    version = torch.backends.cudnn.version() or 0
    if version < FAST_CUDNN:
        logger.warning(
            "cuDNN %s computes 3D convolutions in %s up to four times slower than cuDNN 9.15 and later. Install a PyTorch "
            "that brings one, or try --amp off.",
            # 8.9.2 is 8902, 9.1.0 is 90100
            f"{version // (10000 if version >= 90000 else 1000)}.{version // 100 % (100 if version >= 90000 else 10)}",
            name(dtype),
        )


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager:
    """Autocast to ``dtype`` on ``device``; None computes as it is."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
