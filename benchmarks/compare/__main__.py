"""Runs what is missing, a row a finished run, then writes the table.

    python -m benchmarks.compare --tasks acdc:7 lgg:5 --bundles supervised mean_teacher --seeds 0 --lists /data/lists
    ... --continue --budget 150m      goes on where an earlier call stopped, and stops in time
    python -m benchmarks.compare --table

A task is ``NAME:LABELS`` (its list is ``LISTS/NAME_LABELS.json``, see docs/data.md) or a phantom's name. Runs lie in ``runs/compare``,
rows in ``benchmarks/results/compare``; sizes stand in ``benchmarks/sizes.yaml``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from custom.checkpoint import write_text
from custom.run_folder import RunFolder, RunFolderError

from .runs import ROOT, Cell, OutOfTime, cell, read_sizes, run

ROWS = ROOT / "benchmarks/results/compare"


def seconds(text: str) -> float:
    """``90s``, ``150m``, ``2h``; a number alone is minutes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90s, 150m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "": 60}[found[2]]


def do(cells: Sequence[Cell], lists: Path, output: Path, rows: Path, budget: float, go_on: bool) -> list[str]:
    """Runs the cells without a row, in order; returns those that are not done."""
    deadline = time.monotonic() + budget
    left = []
    for one in cells:
        path = rows / f"{one}.json"
        if path.exists():
            continue
        if time.monotonic() > deadline:
            left.append(f"{one}: no time left")
            continue
        print(f"{one} ...", flush=True)
        start = time.monotonic()
        try:
            with RunFolder(output / str(one) / "compare"):  # two calls may share the work
                found = run(one, lists, output / str(one), deadline, go_on)
        except OutOfTime:
            left.append(f"{one}: stopped, --continue goes on")
        except (RuntimeError, RunFolderError) as error:
            left.append(f"{one}: {error}")
        else:
            rows.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(found, indent=1) + "\n")
            dice = found["networks"]["model_final"]["metrics"]["dice_mean"]["mean"]
            print(f"{one}: test Dice {dice:.3f} (final), {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
    return left


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--tasks", nargs="+", default=["phantom_2d"])
    parser.add_argument("--bundles", nargs="+", default=["supervised", "mean_teacher"], help="bundles, or variants of sizes.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--lists", type=Path, default=ROOT / "runs/compare/data", help="folder of the data lists; phantoms are drawn here")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/compare")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--continue", dest="go_on", action="store_true", help="resume what an earlier call left unfinished")
    parser.add_argument("--budget", type=seconds, default=float("inf"), help="stop after 90s, 150m, 2h")
    told = parser.parse_args(arguments)
    sizes = read_sizes()
    cells = [cell(task, name, seed, sizes) for task in told.tasks for seed in told.seeds for name in told.bundles]
    left = do(cells, told.lists.resolve(), told.output.resolve(), told.rows.resolve(), told.budget, told.go_on)
    for text in left:
        print(f"not done: {text}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
