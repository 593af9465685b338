"""nnU-Net v2 against our bundles: the same scans, split, cores and wall-clock time of training.

    python -m benchmarks.peers --budget 60m --task acdc:3 --lists /data/lists
    python -m benchmarks.peers --table

A task is ``NAME:LABELS`` (its list is ``LISTS/NAME_LABELS.json``, see docs/data.md) or a phantom's name, which is drawn in LISTS.
nnU-Net has an environment of its own (``--nnunet VENV``; without it one is made, some 2 GB). Everything runs on the processor.
Each step can be stopped at any time; the same command goes on. Cases and settings of a comparison come to
``benchmarks/results/peers``, the table of all beside them (``peers.md``, ``peers.csv``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from custom import cores
from custom.errors import show_plainly
from custom.files import typed, write_text
from custom.run.folder import RunFolder
from custom.study.budget import seconds
from custom.study.jobs import BUNDLES, Stopped

from ..compare.runs import ROOT, read_sizes, revision
from ..machine import machine
from . import cohort, nnunet, ours, table

RESULTS = ROOT / "benchmarks/results"
LENGTH = ("steps", "epoch_steps", "val_interval")  # of a size: here time decides


def main(arguments: Sequence[str] | None = None) -> int:
    show_plainly()
    options = _parser().parse_args(arguments)
    if not options.table:
        threads = options.threads or cores.count()
        os.environ |= {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}  # of all that is started
        words_of_name = [*options.task.split(":"), options.budget, f"seed{options.seed}", options.size]
        name = "_".join(filter(None, words_of_name))
        folder = options.output.resolve() / name
        try:
            with RunFolder(folder, option="output"):
                compare(options, folder, options.rows / name, threads)
        except Stopped:
            print("Stopped. The same command goes on.", file=sys.stderr)
            return 130
    print("Written: " + ", ".join(map(str, table.write(options.rows, options.out))))
    return 0


def compare(options: argparse.Namespace, folder: Path, rows: Path, threads: int) -> None:
    """Do what is missing of a comparison, and keep its cases and settings in ``rows``.

    Raises:
        PeersError: it cannot be made as asked for; a training failed.
    """
    budget, overrides = seconds(options.budget), _overrides(options.size, options.task)
    scans = cohort.read(options.task, options.lists.resolve(), folder)
    digest = hashlib.sha256(json.dumps(scans.parts, sort_keys=True).encode()).hexdigest()
    _same(
        folder / "settings.json",
        {"threads": threads, "bundles": options.bundles, "overrides": overrides, "scans": digest},
    )
    python, version = nnunet.environment(options.nnunet, options.output.resolve() / "nnunet_venv")
    theirs = folder / "nnunet"
    theirs.mkdir(exist_ok=True)
    tell(f"nnU-Net {version} for {options.budget}; its log: {theirs / 'log.txt'}")
    methods: dict[str, dict[str, Any]] = {
        table.NNUNET: nnunet.run(scans, python, theirs, budget, threads, options.seed)
    }
    maps = {table.NNUNET: theirs / "label_maps"}
    for bundle in options.bundles:
        tell(f"{bundle} for {options.budget}")
        methods[bundle] = ours.run(scans, bundle, folder / bundle, budget, threads, options.seed, overrides)
        maps[bundle] = ours.maps_of(folder / bundle, bundle)
    kept = rows / table.ABOUT
    if kept.is_file() and json.loads(kept.read_text())["methods"] == methods:
        return  # with the date and the commit that it was made under
    units = {table.score(scans, maps[name], folder / "scores", name) for name in methods}
    labels = options.task.partition(":")[2]
    about = {
        "task": options.task.partition(":")[0], "labels": labels, "budget": options.budget, "seed": options.seed,
        "threads": threads, "methods": methods, "unit": units.pop(), "nnunet": version, "torch": torch.__version__,
        "machine": machine(), "date": str(date.today()), "commit": revision(), "command": _command(options, threads),
    }  # fmt: skip
    rows.mkdir(parents=True, exist_ok=True)
    for name in methods:
        shutil.copyfile(folder / "scores" / f"{name}.csv", rows / f"{name}.csv")
    write_text(kept, json.dumps(about, indent=1) + "\n")


def _command(options: argparse.Namespace, threads: int) -> str:
    """What makes the same comparison elsewhere: the folders are the reader's own."""
    size = ["--size", options.size] if options.size else []
    words = [
        "--budget",
        options.budget,
        "--task",
        options.task,
        "--lists",
        "LISTS",
        "--bundles",
        *options.bundles,
        *size,
    ]
    return " ".join(["python -m benchmarks.peers", *words, "--threads", str(threads), "--seed", str(options.seed)])


def tell(text: str) -> None:
    print(text, flush=True)


def _overrides(size: str, task: str) -> dict[str, Any]:
    """What a size of ``sizes.yaml`` changes in our bundles, except their length; nothing without one.

    Raises:
        PeersError: no such size, or none for this task.
    """
    sizes = read_sizes()["sizes"]
    name = task.partition(":")[0]
    if size and name not in sizes.get(size, {}):
        named = ", ".join(s for s, tasks in sizes.items() if name in tasks)
        raise cohort.PeersError(f"--size {size}: of the sizes {named or 'none'} names the task {name}")
    return {key: value for key, value in sizes[size][name].items() if key not in LENGTH} if size else {}


def _same(path: Path, settings: dict[str, Any]) -> None:
    """An unfinished comparison goes on under its own settings alone.

    Raises:
        PeersError: they differ.
    """
    if path.is_file() and (found := json.loads(path.read_text())) != settings:
        changed = ", ".join(
            f"{key} {found.get(key)}, now {value}" for key, value in settings.items() if found.get(key) != value
        )
        raise cohort.PeersError(
            f"{path.parent} was begun with {changed}. Go on with the same, or give another --output"
        )
    write_text(path, json.dumps(settings) + "\n")


def _budget(text: str) -> str:
    seconds(text)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--task", default="phantom_2d", help="NAME:LABELS, or a phantom")
    add(
        "--lists",
        type=typed,
        default=ROOT / "runs/peers/data",
        help="folder of the data lists; phantoms are drawn here",
    )
    add("--budget", type=_budget, default="60m", help="of each training: 90s, 60m, 2h (default: 60m)")
    add(
        "--bundles",
        nargs="+",
        choices=sorted(path.name for path in BUNDLES.iterdir()),
        default=["supervised", "mean_teacher"],
    )
    add(
        "--nnunet",
        type=typed,
        help="an environment with nnU-Net, such as one with torch's CPU build; left out, OUTPUT/nnunet_venv is made",
    )
    add(
        "--size",
        default="",
        help="grid and network of our bundles, by its name in benchmarks/sizes.yaml (default: the task's)",
    )
    add("--threads", type=int, default=0, help="of the processor; 0: all cores at hand")
    add("--seed", type=int, default=0)
    add("--output", type=typed, default=ROOT / "runs/peers", help="folder of the runs")
    add("--table", action="store_true", help="run nothing, write the table alone")
    add("--rows", type=typed, default=RESULTS / "peers", help="folder of the finished comparisons")
    add("--out", type=typed, default=RESULTS, help="folder of peers.md and peers.csv")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception: what runs is ended too
    sys.exit(main())
