"""Where a network lies in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def place(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network on ``device``, channels last where convolutions are faster so.

    That is 2D, and 3D with BatchNorm; InstanceNorm3d copies its input back and forth.
    """
    modules = list(network.modules())
    to: Any = network.to  # its stubs do not know memory_format without a dtype
    if any(isinstance(m, nn.Conv2d) for m in modules):
        return to(device=device, memory_format=torch.channels_last)
    if any(isinstance(m, nn.Conv3d) for m in modules) and not any(isinstance(m, nn.InstanceNorm3d) for m in modules):
        return to(device=device, memory_format=torch.channels_last_3d)
    return network.to(device)
