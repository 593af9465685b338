"""Where a network lies in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import UserError


class DeviceError(UserError, ValueError):
    """A device that this machine has not, or that PyTorch cannot use."""


def place(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network on ``device``, channels last, where convolutions are faster on CPUs and GPUs alike.

    Raises:
        DeviceError: nothing can be put there.
    """
    _judge(device)
    to: Any = network.to  # its stubs do not know memory_format without a dtype
    if any(isinstance(m, nn.Conv3d) for m in network.modules()):
        return to(device=device, memory_format=torch.channels_last_3d)
    return to(device=device, memory_format=torch.channels_last)


def _judge(device: torch.device | str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by kind of device, and by PyTorch's build
        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        raise DeviceError(
            f"device {str(device)!r} cannot be used ({(str(error).splitlines() or [type(error).__name__])[0]}); found "
            f"{', '.join(['cpu', *gpus])}. Leave --device out, or name one of these; a GPU that is not among them needs its "
            "driver and a PyTorch that was built for it"
        ) from error
