"""What a figure was measured on, in words."""

from __future__ import annotations

import os
import platform

import torch


def machine(threads: int | None = None, jobs: int = 1) -> str:
    """Cores, kind, vector units and memory of the whole machine; and with how many threads each of ``jobs`` runs computed.

    The units matter: with AVX512_BF16 or AMX `amp: auto` computes in bfloat16, without them in float32.
    """
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    beside = f", {jobs} runs side by side" if jobs > 1 else ""
    kind = platform.machine().replace("_", "-")
    used = threads or os.environ.get("OMP_NUM_THREADS", "all")
    return f"{os.cpu_count()} cores (threads: {used}{beside}), {kind}, {_units()}, {gib:.0f} GiB"


def _units() -> str:
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    if torch.cpu._is_avx512_bf16_supported():
        return "AVX512_BF16"
    return torch.backends.cpu.get_cpu_capability()
