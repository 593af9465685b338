"""Runs what is missing, a row a finished run, then writes the table.

    python -m benchmarks.compare --size screen --tasks acdc:3 --bundles supervised mean_teacher --seeds 0 1 2 --lists /data/lists
    ... --continue --budget 150m      goes on where an earlier call stopped, and stops in time
    python -m benchmarks.compare --table [--docs]

A task is ``NAME:LABELS`` (its list is ``LISTS/NAME_LABELS.json``, see docs/data.md) or a phantom's name. Runs lie in
``runs/compare``, rows in ``benchmarks/results/compare``, the table of all rows beside them (``compare.md``, ``.csv``,
``.html``); sizes stand in ``benchmarks/sizes.yaml``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom.files import write_text
from custom.run.folder import RunFolder, RunFolderError
from custom.study.budget import seconds

from . import page, table
from .results import families, read_rows
from .runs import ROOT, SIZES, Job, OutOfTime, fits, job_of, read_sizes, run

RESULTS = ROOT / "benchmarks/results"


def do(jobs: Sequence[Job], lists: Path, output: Path, rows: Path, budget: float, go_on: bool) -> list[str]:
    """Run the jobs without a row, in order; returns what to say of those that are not done."""
    deadline = time.monotonic() + budget
    left = []
    for job in jobs:
        if (rows / f"{job}.json").exists():
            continue
        if time.monotonic() > deadline:
            left.append(f"{job}: no time left")
            continue
        try:
            with RunFolder(output / str(job) / "compare"):  # two calls may share the work
                if not (rows / f"{job}.json").exists():
                    _do(job, lists, output / str(job), rows, deadline, go_on)
        except OutOfTime:
            left.append(f"{job}: the budget ended in it, --continue goes on")
        except RunFolderError as error:
            left.append(f"{job}: skipped. {error}")
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            left.append(f"{job}: {type(error).__name__}: {error}")
    return left


def _do(job: Job, lists: Path, folder: Path, rows: Path, deadline: float, go_on: bool) -> None:
    print(f"{job} ...", flush=True)
    start = time.monotonic()
    found = run(job, lists, folder, deadline, go_on)
    rows.mkdir(parents=True, exist_ok=True)
    write_text(rows / f"{job}.json", json.dumps(found, indent=1) + "\n")
    dice = found["networks"]["model_final"]["metrics"]["dice_mean"]["mean"]
    said = "no test Dice" if dice is None else f"test Dice {dice:.3f} (final)"
    print(f"{job}: {said}, {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


def write(rows: Path, sizes: Mapping[str, Any], out: Path, docs: Path | None = None) -> list[Path]:
    """Write ``compare.md``, ``compare.csv`` and ``compare.html`` into ``out``, and the block of ``docs``.

    Raises:
        ValueError: a file of ``rows`` that is no row, or a page without the markers.
    """
    found = families(read_rows(rows), sizes)
    texts = {
        "compare.md": table.markdown(found), "compare.csv": table.csv_text(found), "compare.html": page.html(found)
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(out / name, text)
    if docs is not None:
        block = table.with_block(docs.read_text(encoding="utf-8"), table.summary(found), str(docs))
        write_text(docs, block)
    return [*(out / name for name in texts), *([docs] if docs else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    left = []
    try:
        sizes = read_sizes(options.sizes)
        if not options.table:
            left = do(_jobs(options, sizes), options.lists.resolve(), options.output.resolve(), options.rows.resolve(),
                      options.budget, options.go_on)  # fmt: skip
        paths = write(options.rows, sizes, options.out, options.docs)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for text in left:
        print(f"not done: {text}", file=sys.stderr)
    print("Written: " + ", ".join(map(str, paths)))
    return 1 if left else 0


def _jobs(options: argparse.Namespace, sizes: dict[str, Any]) -> list[Job]:
    named = ((task, name, seed) for task in options.tasks for seed in options.seeds for name in options.bundles)
    jobs = [job_of(options.size, *names, sizes) for names in named]
    for job in jobs:
        if not fits(job, sizes):
            print(f"{job}: left out, {job.name} is not for this task ({options.sizes})")
    return [job for job in jobs if fits(job, sizes)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--size", default="screen", help="of the runs, by its name in the sizes")
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
    add("--docs", type=Path, nargs="?", const=ROOT / "docs/results.md", metavar="PAGE",
        help=f"write the summary between {table.MARKERS[0]} and {table.MARKERS[1]} too (default: docs/results.md)")  # fmt: skip
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception: the run that goes on is ended too
    sys.exit(main())
