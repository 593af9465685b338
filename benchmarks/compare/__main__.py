"""Runs what is missing, a row a finished run, then writes the table.

    python -m benchmarks.compare --tasks acdc:7 lgg:5 --bundles supervised mean_teacher --seeds 0 --lists /data/lists
    ... --continue --budget 150m      goes on where an earlier call stopped, and stops in time
    python -m benchmarks.compare --table [--readme]

A task is ``NAME:LABELS`` (its list is ``LISTS/NAME_LABELS.json``, see docs/data.md) or a phantom's name. Runs lie in
``runs/compare``, rows in ``benchmarks/results/compare``, the table of all rows beside them (``compare.md``, ``.csv``,
``.html``); sizes stand in ``benchmarks/sizes.yaml``.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from custom.files import write_text
from custom.run.folder import RunFolder, RunFolderError

from . import table
from .runs import ROOT, SIZES, Cell, OutOfTime, cell, fits, read_sizes, run

RESULTS = ROOT / "benchmarks/results"


def seconds(text: str) -> float:
    """``90s``, ``150m``, ``2h``; a number alone is minutes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90s, 150m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "": 60}[found[2]]


def do(cells: Sequence[Cell], lists: Path, output: Path, rows: Path, budget: float, go_on: bool) -> list[str]:
    """Runs the cells without a row, in order; returns what to say of those that are not done."""
    deadline = time.monotonic() + budget
    left = []
    for one in cells:
        if (rows / f"{one}.json").exists():
            continue
        if time.monotonic() > deadline:
            left.append(f"{one}: no time left")
            continue
        try:
            with RunFolder(output / str(one) / "compare"):  # two calls may share the work
                if not (rows / f"{one}.json").exists():
                    _do_one(one, lists, output / str(one), rows, deadline, go_on)
        except OutOfTime:
            left.append(f"{one}: the budget ended in it, --continue goes on")
        except RunFolderError as error:
            left.append(f"{one}: skipped. {error}")
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            left.append(f"{one}: {type(error).__name__}: {error}")
    return left


def _do_one(one: Cell, lists: Path, folder: Path, rows: Path, deadline: float, go_on: bool) -> None:
    print(f"{one} ...", flush=True)
    start = time.monotonic()
    found = run(one, lists, folder, deadline, go_on)
    rows.mkdir(parents=True, exist_ok=True)
    write_text(rows / f"{one}.json", json.dumps(found, indent=1) + "\n")
    dice = found["networks"]["model_final"]["metrics"]["dice_mean"]["mean"]
    said = "no test Dice" if dice is None else f"test Dice {dice:.3f} (final)"
    print(f"{one}: {said}, {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    told = _parser().parse_args(arguments)
    left = []
    try:
        sizes = read_sizes(told.sizes)
        if not told.table:
            left = do(_cells(told, sizes), told.lists.resolve(), told.output.resolve(), told.rows.resolve(),
                      told.budget, told.go_on)  # fmt: skip
        paths = table.write(told.rows, sizes, told.out, told.readme)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for text in left:
        print(f"not done: {text}", file=sys.stderr)
    print("Written: " + ", ".join(map(str, paths)))
    return 1 if left else 0


def _cells(told: argparse.Namespace, sizes: dict[str, Any]) -> list[Cell]:
    cells = [cell(task, name, seed, sizes) for task in told.tasks for seed in told.seeds for name in told.bundles]
    for one in cells:
        if not fits(one, sizes):
            print(f"{one}: left out, {one.name} is not for this task ({told.sizes})")
    return [one for one in cells if fits(one, sizes)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--tasks", nargs="+", default=["phantom_2d"])
    add("--bundles", nargs="+", default=["supervised", "mean_teacher"], help="bundles, or variants of the sizes")
    add("--seeds", nargs="+", type=int, default=[0])
    add(
        "--lists",
        type=Path,
        default=ROOT / "runs/compare/data",
        help="folder of the data lists; phantoms are drawn here",
    )
    add("--output", type=Path, default=ROOT / "runs/compare", help="folder of the runs")
    add("--sizes", type=Path, default=SIZES, help="length and size of the runs (YAML)")
    add("--continue", dest="go_on", action="store_true", help="resume what an earlier call left unfinished")
    add("--budget", type=seconds, default=float("inf"), help="stop after 90s, 150m, 2h")
    add("--table", action="store_true", help="run nothing, write the table alone")
    add("--rows", type=Path, default=RESULTS / "compare", help="folder of the rows")
    add("--out", type=Path, default=RESULTS, help="folder of compare.md, compare.csv and compare.html")
    add("--readme", type=Path, nargs="?", const=ROOT / "README.md", metavar="FILE",
        help=f"write the methods between {table.MARKERS[0]} and {table.MARKERS[1]} too (default: README.md)")  # fmt: skip
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception: the run that goes on is ended too
    sys.exit(main())
