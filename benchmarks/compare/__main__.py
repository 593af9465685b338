"""Runs what is missing, a row a finished run, then writes the table.

    python -m benchmarks.compare --size screen --tasks acdc:3 --bundles supervised mean_teacher --seeds 0 1 2 --lists /data/lists
    ... --continue --budget 150m      goes on where an earlier call stopped, and stops in time
    ... --jobs 4                      four runs side by side, each on a quarter of the cores
    python -m benchmarks.compare --table [--docs]

A task is ``NAME:LABELS`` (its list is ``LISTS/NAME_LABELS.json``, see docs/data.md) or a phantom's name. Runs lie in
``runs/compare``, rows in ``benchmarks/results/compare``, the table of all rows beside them (``compare.md``, ``.csv``,
``.html``); sizes stand in ``benchmarks/sizes.yaml``.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom import cores
from custom.cores import Share
from custom.files import write_text
from custom.run.folder import RunFolder, RunFolderError
from custom.study.budget import seconds
from custom.study.side_by_side import Late, Pool, Stopped

from ..machine import machine
from . import page, table
from .results import families, read_rows
from .runs import ROOT, SIZES, Job, fits, job_of, read_sizes, run

RESULTS = ROOT / "benchmarks/results"


CORES_A_RUN = 4  # a smaller share makes each run slower than it makes all of them faster


class Runs:
    """The runs of one call, some side by side.

    Args:
        lists: folder of the data lists.
        output: folder of the runs.
        rows: folder of the rows.
        budget: seconds.
        go_on: from the checkpoints of an earlier call.
        pool: of the cores.
    """

    def __init__(self, lists: Path, output: Path, rows: Path, budget: float, go_on: bool, pool: Pool) -> None:
        self.lists, self.output, self.rows, self.go_on, self.pool = lists, output, rows, go_on, pool
        self.deadline = time.monotonic() + budget

    def do(self, jobs: Sequence[Job]) -> list[str]:
        """Run the jobs without a row, begun in order; returns what to say of those that are not done.

        Raises:
            Stopped: by SIGTERM or Ctrl-C; no process is left, and what is done is done.
        """
        with self.pool as pool:
            futures = [pool.submit(functools.partial(self._try, job)) for job in jobs]
            return [text for future in futures if (text := future.result())]

    def _try(self, job: Job, share: Share) -> str:
        """Run a job; why it is not done, or nothing."""
        if self._row(job).exists():
            return ""
        if time.monotonic() > self.deadline:
            return f"{job}: no time left"
        try:
            with RunFolder(self.output / str(job) / "compare"):  # two calls may share the work
                if not self._row(job).exists():
                    self._do(job, share)
        except Late:
            return f"{job}: the budget ran out during it, --continue goes on"
        except RunFolderError as error:
            return f"{job}: skipped. {error}"
        except (RuntimeError, OSError, ValueError, LookupError) as error:
            return f"{job}: {type(error).__name__}: {error}"
        return ""

    def _do(self, job: Job, share: Share) -> None:
        print(f"{job} on {share} ...", flush=True)
        began = time.monotonic()

        def start(command: list[str], folder: Path, log: Path) -> tuple[int, int]:
            return self.pool.command(command, share, folder, log, deadline=self.deadline)

        found = run(job, self.lists, self.output / str(job), start, self.go_on, len(self.pool.shares))
        found["machine"] = machine(share.threads, len(self.pool.shares))
        self.rows.mkdir(parents=True, exist_ok=True)
        write_text(self._row(job), json.dumps(found, indent=1) + "\n")
        dice = found["networks"]["model_final"]["metrics"]["dice_mean"]["mean"]
        said = "no test Dice" if dice is None else f"test Dice {dice:.3f} (final)"
        print(f"{job}: {said}, {(time.monotonic() - began) / 60:.1f} minutes", flush=True)

    def _row(self, job: Job) -> Path:
        return self.rows / f"{job}.json"


def runs_at_once(jobs: int) -> int:
    """How many of ``jobs`` runs to do at once: one for each :data:`CORES_A_RUN` cores, on a GPU one."""
    most = max(1, min(cores.count() // CORES_A_RUN, jobs))
    if most > 1:
        import torch

        most = 1 if torch.cuda.is_available() else most
    return most


def write(rows: Path, sizes: Mapping[str, Any], out: Path, docs: Path | None = None) -> list[Path]:
    """Write ``compare.md``, ``compare.csv`` and ``compare.html`` into ``out``, and the block of ``docs``.

    Raises:
        ValueError: a file of ``rows`` that is not a row, or a page without the markers.
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
            jobs = _jobs(options, sizes)
            pool = Pool(runs_at_once(len(jobs)) if options.jobs is None else options.jobs)
            lists, output, rows = (folder.resolve() for folder in (options.lists, options.output, options.rows))
            left = Runs(lists, output, rows, options.budget, options.go_on, pool).do(jobs)
        paths = write(options.rows, sizes, options.out, options.docs)
    except Stopped:
        print("Stopped; the same command with --continue goes on.", file=sys.stderr)
        return 128 + (pool.caught or 0)
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
    add("--jobs", type=_count, help=f"runs side by side (default: one for each {CORES_A_RUN} cores; on a GPU 1)")
    add("--budget", type=seconds, default=float("inf"), help="stop after 90s, 150m, 2h")
    add("--table", action="store_true", help="run nothing, write the table alone")
    add("--rows", type=Path, default=RESULTS / "compare", help="folder of the rows")
    add("--out", type=Path, default=RESULTS, help="folder of compare.md, compare.csv and compare.html")
    add("--docs", type=Path, nargs="?", const=ROOT / "docs/results.md", metavar="PAGE",
        help=f"write the summary between {table.MARKERS[0]} and {table.MARKERS[1]} too (default: docs/results.md)")  # fmt: skip
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of runs: write 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
