"""What re-estimated normalisation statistics do to a run: validation Dice of the same weights, as trained and re-estimated.

    python -m benchmarks.normalisation RUN [RUN ...]       folders of runs, finished or under way, or single checkpoints

Reads the newest checkpoint of each run (``last_*.pt``), or the one that is named, builds method and validation scans as the
run's own config says, and scores every network that serves twice: with the running statistics that it was trained with, and with
those of clean labelled patches (``statistics`` in the config; 16 batches where a run has none). Beside it: how long one
estimation takes, and its share of the time between two validations. A network without BatchNorm has no row. Writes
``normalisation.md``. A run is only read, except that a bank may write scans to the disk.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from monai.bundle import ConfigParser
from torch.nn.modules.batchnorm import _BatchNorm

from custom.errors import UserError, show_plainly
from custom.files import write_text
from custom.markdown import table
from custom.run import checkpoint
from custom.training.statistics import CleanStatistics
from custom.training.validation import ServingEvaluator

from .machine import machine

ROOT = Path(__file__).resolve().parents[1]
BATCHES = 16


class Row(NamedTuple):
    """A network of a run at one checkpoint."""

    run: str
    network: str
    step: int
    as_trained: float
    estimated: float
    seconds: float
    """seconds of one estimation"""
    share: float
    """the estimation's share of the training time between two validations; NaN where the run has no two"""


def measure(given: Path) -> list[Row]:
    """The rows of one run: its folder, or a checkpoint in it.

    Raises:
        UserError: there is no checkpoint, or no config of the run beside it.
    """
    folder = given if given.is_dir() else given.parent
    config = folder / "bundle" / "configs" / "train.yaml"
    if not config.is_file():
        raise UserError(
            f"{folder} holds no bundle/configs/train.yaml. Give the output_dir of a run, or a checkpoint in it"
        )
    saved = torch.load(given, map_location="cpu", weights_only=True) if given.is_file() else _newest(folder)
    sys.path.insert(0, str(config.parents[1]))  # the run's own scripts
    parser = ConfigParser()
    parser.read_config(str(config))
    parser["bundle_root"], parser["output_dir"] = str(config.parents[1]), str(folder)
    if not parser["statistics::batches"]:
        parser["statistics::batches"] = BATCHES
    evaluator: ServingEvaluator = parser.get_parsed_content("validate::evaluator")
    statistics: CleanStatistics = parser.get_parsed_content("train::statistics")
    method = evaluator.method
    method.load_state_dict(saved["state"]["method"])
    networks = {
        name: network
        for name, network in method.serving().items()
        if any(isinstance(module, _BatchNorm) for module in network.modules())
    }
    scores = []
    for used in (None, statistics):
        evaluator.statistics = used
        evaluator.run()
        scores.append(dict(evaluator.scores))
    found = []
    for name, network in networks.items():
        statistics.forget()
        began = time.perf_counter()
        with statistics.applied({name: network}):
            seconds = time.perf_counter() - began
        step, share = int(saved["state"]["step"]), seconds / _between_validations(folder)
        found.append(Row(folder.name, name, step, scores[0][name], scores[1][name], seconds, share))
    return found


def _between_validations(folder: Path) -> float:
    """Seconds of training, of all epochs by the number of validations; NaN where there is no table or no validation."""
    table = folder / "metrics.csv"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines())) if table.is_file() else []
    validations = sum(bool(row["validation_seconds"]) for row in rows)
    return sum(float(row["seconds"]) for row in rows) / validations if validations else math.nan


def _newest(folder: Path) -> dict:
    found = checkpoint.newest(folder)
    if found is None:
        raise UserError(f"{folder} holds no last_*.pt: the run has not finished an epoch, or they were deleted")
    return found[0]


def page(rows: Sequence[Row], where: str, command: str) -> str:
    """Markdown."""
    heads = ["run", "network", "step", "as trained", "re-estimated", "points", "s to estimate", "of training"]
    lines = [
        [
            row.run, row.network, str(row.step), f"{row.as_trained:.3f}", f"{row.estimated:.3f}",
            f"{100 * (row.estimated - row.as_trained):+.1f}", f"{row.seconds:.2f}",
            f"{100 * row.share:.1f} %" if math.isfinite(row.share) else "",
        ]
        for row in rows
    ]  # fmt: skip
    text = f"Validation Dice of the same weights with both statistics; {where}."
    return "\n\n".join(["# Normalisation statistics", text, f"    {command}", table(heads, lines)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    show_plainly()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.normalisation", description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args(arguments)
    # each in a process of its own, which imports the scripts of that run
    rows: list[Row] = []
    for run in options.runs:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as one:
            rows += one.submit(measure, run.resolve()).result()
    words = sys.argv[1:] if arguments is None else arguments
    where = f"{machine()}, load {os.getloadavg()[0]:.1f}, {datetime.date.today()}"
    text = page(rows, where, " ".join(["python -m benchmarks.normalisation", *words]))
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "normalisation.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
