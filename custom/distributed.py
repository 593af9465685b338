"""The few things that the ranks of a run do together. With one process each of them costs nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .errors import UserError

START = timedelta(days=1)  # that a rank waits for others who check or read scans: a large cohort takes hours
_patient: list[dist.ProcessGroup] = []  # the group of :func:`start` for such waiting, or nothing


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
    """Join the group that torchrun announces in the environment: NCCL between GPUs, Gloo between CPUs.

    A group that torchrun restarts gets the store of the one before, with the addresses of processes that are gone:
    whoever reads one of them waits for ever (torch 2.13). Each attempt therefore has a part of the store to itself. With
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, which several machines need (docs/scale.md), each attempt has a store to
    itself, and attempts need not be told apart; their numbers could not do it, as a machine that was started again
    begins with 0.
    """
    if active():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())  # what NCCL gathers objects on
        backend = "cpu:gloo,cuda:nccl"
    store, number, processes = next(dist.rendezvous("env://"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "True") == "True":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt {attempt}", store)
    dist.init_process_group(backend, store=store, rank=number, world_size=processes)
    _patient[:] = [dist.new_group(backend="gloo", timeout=START)]


def stop() -> None:
    """Leave the group."""
    if active():
        _patient.clear()
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


def any_rank(flag: torch.Tensor) -> torch.Tensor:
    """Set a flag of 0 or 1 on every rank where any rank has it set, in place; nothing waits for the device."""
    if active():
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return flag


def gather(rows: list[Any]) -> list[Any]:
    """The rows of all ranks, by rank, on every rank."""
    if not active():
        return rows
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def by_rank_0(action: Callable[[], Any]) -> None:
    """``action``, done by rank 0 alone while the others wait for its end.

    Raises:
        Exception: what ``action`` raises, on rank 0.
        UserError: its text, on the other ranks: none is left waiting.
    """
    fault = None
    if rank() == 0:
        try:
            action()
        except Exception as error:
            fault = error
    if active():
        message = [str(fault) if fault is not None else None]
        dist.broadcast_object_list(message, src=0, group=_waiting(), device=torch.device("cpu"))
        if fault is None and message[0] is not None:
            raise UserError(f"rank 0: {message[0]}")
    if fault is not None:
        raise fault


def barrier(patient: bool = False) -> None:
    """Wait until every rank is here; ``patient``: for as long as reading a cohort may take one of them."""
    if active():
        dist.barrier(_waiting() if patient else None)


def _waiting() -> dist.ProcessGroup | None:
    """None is the group of all ranks with its own patience: Gloo's half an hour, NCCL's ten minutes."""
    return _patient[0] if _patient else None
