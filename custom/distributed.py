"""The few things that the ranks of a run do together. With one process each of them costs nothing."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def active() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number in its group; 0 alone."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """Processes in the group; 1 alone."""
    return dist.get_world_size() if active() else 1


def local_device() -> torch.device:
    """This process's GPU under torchrun, the only GPU, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def start() -> None:
    """Join the group that torchrun announces in the environment: NCCL between GPUs, Gloo between CPUs."""
    if active():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())  # what NCCL gathers objects on
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")


def stop() -> None:
    """Leave the group."""
    if active():
        dist.destroy_process_group()


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Give every rank the mean of the floating-point buffers (BatchNorm statistics, prototypes).

    DDP keeps parameters equal, not buffers: each rank's come from its own batches. Integer buffers count steps and
    are equal already.
    """
    if not active():
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer.div_(world_size())


def gather(rows: list[Any]) -> list[Any]:
    """The rows of all ranks, by rank, on every rank."""
    if not active():
        return rows
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def barrier() -> None:
    """Wait until every rank is here."""
    if active():
        dist.barrier()
