"""What was tried to make a step faster, one change at a time: the forward and backward pass of a U-Net, in turns.

    python -m benchmarks.tried --threads 1                 in the format that `amp: auto` takes here
    python -m benchmarks.tried --amp bf16 --rounds 9

The network is that of the tasks (widths 16 to 256, dropout), 8 patches of 160 x 160. Writes ``tried_float32.md`` or
``tried_bfloat16.md``. Compared is the least of the rounds, to which others on the machine add nothing. It asserts nothing: a
time belongs to its machine.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from custom.errors import show_plainly
from custom.files import write_text
from custom.markdown import table
from custom.networks import UNet, doubling, merging
from custom.training.precision import autocast, autocast_dtype

from .machine import machine

RESULTS = Path(__file__).resolve().parent / "results"
PATCHES, SIDE, CLASSES = 8, 160, 4
CPU = torch.device("cpu")
Changed = contextlib.AbstractContextManager[Callable[[Tensor], Tensor]]


@contextlib.contextmanager
def _as_it_is(network: UNet) -> Iterator[UNet]:
    yield network


def _deciding(module: ModuleType, pays: bool) -> Callable[[UNet], Changed]:
    """The change in which ``merging`` or ``doubling`` is always taken, or never."""

    @contextlib.contextmanager
    def change(network: UNet) -> Iterator[UNet]:
        with mock.patch.object(module, "_pays", return_value=pays):
            yield network

    return change


@contextlib.contextmanager
def _last_as_matrix(network: UNet) -> Iterator[UNet]:
    def forward(x: Tensor) -> Tensor:
        return F.linear(x.movedim(1, -1), network.out.weight.flatten(1), network.out.bias).movedim(-1, 1)

    with mock.patch.object(network.out, "forward", forward):
        yield network


@contextlib.contextmanager
def _contiguous(network: UNet) -> Iterator[Callable[[Tensor], Tensor]]:
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    yield lambda x: network(x.contiguous())
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextlib.contextmanager
def _flushed(network: UNet) -> Iterator[UNet]:
    torch.set_flush_denormal(True)
    yield network
    torch.set_flush_denormal(False)


@contextlib.contextmanager
def _compiled(network: UNet) -> Iterator[Callable[[Tensor], Tensor]]:
    yield torch.compile(network)


class _CheapDropout(nn.Module):
    """A value is lost where 16 random bits are below the rate; 64 of them come at once."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()]
        kept = (bits >= round(self.rate * 2**16) - 2**15).view(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)
        return x * kept.to(x.dtype).mul_(1 / (1 - self.rate))


@contextlib.contextmanager
def _cheap_dropout(network: UNet) -> Iterator[UNet]:
    with contextlib.ExitStack() as stack:
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                stack.enter_context(mock.patch.object(layer, "forward", _CheapDropout(layer.p).forward))
        yield network


class _ByLayout(torch.autograd.Function):
    """A convolution whose gradient by its weights is computed in the layout that a probe of the layer found faster."""

    better: ClassVar[dict[tuple[int, ...], bool]] = {}  # whether contiguous, by the shapes of a layer

    @staticmethod
    def apply_to(conv: nn.Conv2d, x: Tensor) -> Tensor:
        return _ByLayout.apply(x, conv.weight, conv.bias)  # type: ignore[no-any-return]

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        by_input = _gradients(along, x, weight, (True, False))[0] if ctx.needs_input_grad[0] else None
        key = (*x.shape, *weight.shape)
        if key not in _ByLayout.better:
            seconds = [min(_ByLayout.timed(along, x, weight, plain) for _ in range(3)) for plain in (False, True)]
            _ByLayout.better[key] = seconds[1] < seconds[0]
        by_weight = _ByLayout.by_weight(along, x, weight, _ByLayout.better[key])
        return by_input, by_weight, along.sum((0, 2, 3))

    @staticmethod
    def by_weight(along: Tensor, x: Tensor, weight: Tensor, plain: bool) -> Tensor:
        if plain:
            along, x, weight = along.contiguous(), x.contiguous(), weight.contiguous()
        return _gradients(along, x, weight, (False, True))[1]

    @staticmethod
    def timed(along: Tensor, x: Tensor, weight: Tensor, plain: bool) -> float:
        start = time.perf_counter()
        _ByLayout.by_weight(along, x, weight, plain)
        return time.perf_counter() - start


def _gradients(along: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> list[Tensor]:
    ones = [1, 1]
    return list(torch.ops.aten.convolution_backward(
        along, x, weight, [weight.shape[0]], ones, ones, ones, False, [0, 0], 1, [*wanted, False]
    ))  # fmt: skip


@contextlib.contextmanager
def _better_layout(network: UNet) -> Iterator[UNet]:
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(merging, "_pays", return_value=False))
        for conv in convs:
            forward = functools.partial(_ByLayout.apply_to, conv)
            stack.enter_context(mock.patch.object(conv, "forward", forward))
        yield network


TRIED: dict[str, Callable[[UNet], Changed]] = {
    "as it is": _as_it_is,
    "the decoder's two maps put beside each other": _deciding(merging, False),
    "a convolution for each of them": _deciding(merging, True),
    "transposed convolutions as PyTorch has them": _deciding(doubling, False),
    "transposed convolutions as matrices": _deciding(doubling, True),
    "the last convolution as a matrix": _last_as_matrix,
    "contiguous instead of channels last": _contiguous,
    "gradients by weights in the faster layout of each layer, maps beside each other": _better_layout,
    "dropout from 16 random bits": _cheap_dropout,
    "denormal numbers flushed": _flushed,
    "torch.compile": _compiled,
}


def measure(names: Sequence[str], rounds: int, form: torch.dtype | None, side: int = SIDE) -> dict[str, list[float]]:
    """Seconds of a forward and backward pass under each change, in turns; a first one of each warms up."""
    torch.manual_seed(0)
    network = UNet(2, 1, CLASSES).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    image = torch.randn(PATCHES, 1, side, side).to(memory_format=torch.channels_last)
    label = torch.randint(0, CLASSES, (PATCHES, side, side))
    found: dict[str, list[float]] = {name: [] for name in names}
    compiled = torch.compile(network) if "torch.compile" in names else None  # once: each one anew would compile anew
    for _ in range(rounds + 1):
        for name in names:
            with TRIED[name](network) as changed:
                changed = compiled if name == "torch.compile" and compiled is not None else changed
                start = time.perf_counter()
                with autocast(form, CPU):
                    logits = changed(image)
                F.cross_entropy(logits.float(), label).backward()
                found[name].append(time.perf_counter() - start)
            network.zero_grad(set_to_none=True)
    return {name: seconds[1:] for name, seconds in found.items()}


def kind(form: torch.dtype | None) -> str:
    return str(form or torch.float32).removeprefix("torch.")


def page(found: dict[str, list[float]], kind: str, command: str) -> str:
    first = min(next(iter(found.values())))
    rows = [
        [
            name,
            f"{1000 * min(seconds):.0f}",
            f"{100 * (min(seconds) / first - 1):+.0f} %",
            f"{1000 * statistics.median(seconds):.0f}",
        ]
        for name, seconds in found.items()
    ]
    heads = ["change", "least, ms", "to as it is", "median, ms"]
    where = f"{machine(torch.get_num_threads())}; torch {torch.__version__.split('+')[0]}; {datetime.date.today()}"
    return (
        f"# What was tried to make a step faster, {kind}\n\nForward and backward pass of a U-Net of widths 16 to 256, "
        f"{PATCHES} patches of {SIDE} x {SIDE}, in turns. {where}.\n\n    {command}\n\n{table(heads, rows)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    show_plainly()
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    form = autocast_dtype(options.amp, CPU)
    found = measure(options.changes or list(TRIED), options.rounds, form)
    text = page(found, kind(form), shlex.join(["python", "-m", "benchmarks.tried", *words]))
    write_text(options.out / f"tried_{kind(form)}.md", text)
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tried", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--threads", type=int, default=0, help="of the processor; 0: all")
    add("--amp", choices=("auto", "bf16", "off"), default="auto")
    add("--rounds", type=int, default=7, help="that count; one more warms up")
    add("--changes", nargs="+", choices=list(TRIED), metavar="NAME", help="some of them, the first is compared with")
    add("--out", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
