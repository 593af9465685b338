"""Time a training step of every bundle, of a loop as the field writes it, and of the floor, in turns.

    python -m benchmarks.speed                                    2D, every bundle, all cores
    python -m benchmarks.speed --dimensions 3 --bundles supervised mean_teacher --threads 1

Writes ``speed_2d.md`` and ``speed_2d.png`` (``speed_3d``). It asserts nothing: a time belongs to its machine.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from custom import cores
from custom.errors import show_plainly
from custom.files import write_text

from ..machine import machine
from .table import Measured, page, plot
from .turns import ROOT, Worker

BUNDLES = tuple(sorted(path.name for path in (ROOT / "bundles").iterdir() if (path / "configs/train.yaml").is_file()))
TWO_CHANNELS = ("contrastive_mutual",)
# That phantom's task is of slices: what makes it one of volumes, as phantom_3d has it.
VOLUMES = {
    "dimensions": 3,
    "slices": False,
    "spacing_mm": [2.5, 2.5, 2.5],
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": "@patch",
        "sw_batch_size": 4,
        "overlap": 0.25,
        "mode": "gaussian",
    },
}
SHAPES: dict[int, dict[str, Any]] = {
    2: {
        "patch": [160, 160],
        "batch": 8,
        "widths": [16, 32, 64, 128, 256],
        "dropout": [0.0, 0.0, 0.1, 0.2, 0.3],
        "norm": "batch",
    },
    3: {
        "patch": [64, 64, 48],
        "batch": 2,
        "widths": [16, 32, 64, 128],
        "dropout": [0.0, 0.0, 0.1, 0.2],
        "norm": "instance",
    },
}
# A run begins with a stage that sees no unlabelled scan; what most of its steps are is timed.
LATER = {"bcp": {"weights::supervised": 0.0, "weights::inward": 0.5, "weights::outward": 0.5}}
RATE, PEER = "convolution", "peer-style"
# Steps of an epoch of the peer-style loop: those of SSL4MIS on ACDC with 7 labelled patients, 136 slices, 12 of them a batch.
PEER_EPOCH = 11


def main(arguments: Sequence[str] | None = None) -> int:
    show_plainly()
    options = _parser().parse_args(arguments)
    threads = options.threads or cores.count()
    for dimensions in options.dimensions:
        found: dict[str, list[Measured]] = {}
        for group in groups(options.bundles, options.at_once):
            for name, rounds in measure(
                dimensions, group, options.rounds, options.steps, threads, options.amp, options.peer_steps
            ).items():
                found.setdefault(name, []).extend(rounds)
        found = dict(sorted(found.items(), key=lambda item: item[0].startswith(PEER)))  # they come last
        options.out.mkdir(parents=True, exist_ok=True)
        where = f"{machine(threads)}, {datetime.date.today()}"
        words = sys.argv[1:] if arguments is None else arguments
        command = " ".join(["python -m benchmarks.speed", *words])
        text = page(found, dimensions, SHAPES[dimensions], where, command)
        write_text(options.out / f"speed_{dimensions}d.md", text)
        plot(found, options.out / f"speed_{dimensions}d.png")
        print(text, flush=True)
    return 0


def groups(bundles: Sequence[str], at_once: int) -> list[list[str]]:
    """So many bundles at a time, whose processes keep their memory until the last round; ``supervised``, where it is among
    them, leads the first."""
    order = sorted(bundles, key=lambda name: name != "supervised")
    return [order[first : first + at_once] for first in range(0, len(order), at_once)]


def measure(
    dimensions: int,
    bundles: Sequence[str],
    rounds: int,
    steps: int,
    threads: int,
    amp: str = "auto",
    peer_steps: int = PEER_EPOCH,
) -> dict[str, list[Measured]]:
    """Rounds of all candidates in turns, the first of which warms up and is dropped.

    A candidate that ends is named and left out.
    """
    shape = SHAPES[dimensions]
    with tempfile.TemporaryDirectory() as folder:
        workers: dict[str, Worker] = {}
        specs = {name: ("ours", _of_bundle(name, dimensions, shape, steps, Path(folder), amp)) for name in bundles}
        specs |= {
            f"{PEER} {name}": ("peer", {**shape, "steps": peer_steps, "teacher": name == "mean_teacher"})
            for name in ("supervised", "mean_teacher")
            if name in bundles
        }
        for kind in _formats(amp):
            specs[f"{RATE} {kind}"] = ("floor", {"dimensions": dimensions, "format": kind})
        for name, (module, spec) in specs.items():
            workers[name] = Worker(module, spec, threads, Path(folder) / f"{name}.log")
        found: dict[str, list[Measured]] = {name: [] for name in workers}
        for number in range(rounds + 1):
            for name in list(workers):
                try:
                    line = workers[name].turn()
                except RuntimeError as error:
                    print(error, file=sys.stderr, flush=True)
                    workers.pop(name).end()
                    found.pop(name)
                    continue
                if number:
                    found[name].append(Measured(**line))
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        for worker in workers.values():
            worker.end()
    return found


def _of_bundle(name: str, dimensions: int, shape: dict[str, Any], steps: int, folder: Path, amp: str) -> dict[str, Any]:
    """A training on a phantom with the sizes of the benchmark; an epoch a turn, every other one validated."""
    form = "two_channels" if name in TWO_CHANNELS else f"{dimensions}d"
    return {
        "bundle": name,
        "files": ["configs/train.yaml", f"scripts/tasks/phantom_{form}.yaml"],
        "overrides": {
            "bundle_root": str(ROOT / "bundles" / name), "dataset_dir": str(folder / f"data_{name}"), "amp": amp,
            "output_dir": str(folder / f"run_{name}"), "data_list": f"phantom:{form}", "patch": shape["patch"],
            "labelled_batch": shape["batch"], "unlabelled_batch": shape["batch"], "widths": shape["widths"],
            "dropout": shape["dropout"], "norm": shape["norm"], "epoch_steps": steps, "steps": 1000 * steps, "val_interval": 2,
            **LATER.get(name, {}), **(VOLUMES if name in TWO_CHANNELS and dimensions == 3 else {}),
        },
    }  # fmt: skip


def _formats(amp: str) -> list[str]:
    """The number formats of the candidates: float32, and that of autocast."""
    import torch

    from custom.training.precision import autocast_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    form = autocast_dtype(amp, device)
    return ["float32", *([] if form is None else [str(form).removeprefix("torch.")])]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--dimensions", nargs="+", type=int, choices=(2, 3), default=[2])
    add("--bundles", nargs="+", choices=BUNDLES, default=BUNDLES)
    add("--rounds", type=int, default=4, help="that count; one more warms up")
    add("--steps", type=int, default=3, help="of a round")
    add(
        "--peer_steps", type=int, default=PEER_EPOCH, help="of a round of the peer-style loop, which starts its workers"
    )
    add("--at_once", type=int, default=4, help="bundles that take turns; each holds up to 4 GB in 3D until it is done")
    add("--threads", type=int, default=0, help="of the processor; 0: all")
    add("--amp", default="auto", help='auto | bf16 | fp16 | "off"')
    add("--out", type=Path, default=ROOT / "benchmarks/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
