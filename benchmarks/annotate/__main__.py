"""Label scans one at a time through the annotation app's own functions, the reference label being the correction.

    .venv-annotate/bin/python -m benchmarks.annotate run --seeds 0 1 2 --out runs/annotate     (made by: make annotate-env)
    .venv/bin/python -m benchmarks.annotate table --out runs/annotate --write benchmarks/results

Without ``--images`` and ``--labels`` the 2D phantom is drawn; with them and ``--task`` any set of single images whose
labels hold class indices. A loop that ended is not run again; a row is written after each training.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from custom.errors import show_plainly

from .cohort import Cohort, of_folders, of_phantom
from .picture import draw
from .table import write

ROOT = Path(__file__).resolve().parents[2]

# name: method, strategy
ARMS = {
    "supervised, random": ("supervised", "random"),
    "mean teacher, random": ("mean_teacher", "random"),
    "mean teacher, spread": ("mean_teacher", "spread"),
    "mean teacher, informative": ("mean_teacher", "informative"),
}


def run(options: argparse.Namespace) -> None:
    """Each loop in a process of its own: MONAI Label's settings are read once, when it is imported."""
    from annotate.start import PICTURES, SWITCHES, VOLUMES

    out = options.out.resolve()
    cohort = _cohort(options, out)
    environment = {
        "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false",
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps([f"*{suffix}" for suffix in VOLUMES + PICTURES]),
        **SWITCHES,
        "PYTHONPATH": str(ROOT),
    }
    for seed in options.seeds:
        for arm in options.arms:
            method, strategy = ARMS[arm]
            folder = out / f"{method}_{strategy}_seed{seed}"
            if (folder / "done").exists():
                continue
            print(f"--- {arm}, seed {seed}: {folder}", flush=True)
            arguments = {"out": folder, "cohort": cohort.save(out / "cohort.json"), "arm": arm, "method": method,
                    "strategy": strategy, "seed": seed, "labels": options.labels_wanted, "epochs": options.epochs}  # fmt: skip
            words = [f"--{key}={value}" for key, value in arguments.items()]
            subprocess.run([sys.executable, "-W", "ignore", "-m", "benchmarks.annotate.loop", *words], cwd=ROOT, check=True,
                           env={**os.environ, **environment})  # fmt: skip


def _cohort(options: argparse.Namespace, out: Path) -> Cohort:
    if options.images is None:
        return of_phantom(out / "data", options.held_out)
    return of_folders(options.images, options.labels, options.task, options.pool, options.held_out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotate", description=__doc__)
    commands = parser.add_subparsers(required=True)
    loops = commands.add_parser("run", help="the loops, in MONAI Label's environment")
    loops.add_argument("--out", type=Path, required=True)
    loops.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    loops.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    loops.add_argument("--labels-wanted", type=int, default=8, help="labels at the end of a loop")
    loops.add_argument("--epochs", type=int, default=5, help="of each training; the bundle's epoch_steps each")
    loops.add_argument("--images", type=Path, help="a folder of images, one a patient (default: the phantom)")
    loops.add_argument("--labels", type=Path, help="their labels, files of the same names")
    loops.add_argument("--task", type=Path, help="their task file")
    loops.add_argument("--pool", type=int, default=44, help="scans that may be labelled")
    loops.add_argument("--held-out", type=int, default=30, help="scans that every version is tested on")
    loops.set_defaults(do=run)
    tables = commands.add_parser("table", help="table, plot and one sentence from the loops in --out")
    tables.add_argument("--out", type=Path, required=True)
    tables.add_argument("--write", type=Path, required=True, help="folder of annotate.{jsonl,md,png}")
    tables.set_defaults(do=lambda options: print(write(options.out, options.write, list(ARMS))))
    pictures = commands.add_parser("picture", help="the drafts that a loop's first and last version make of one scan")
    pictures.add_argument("--loop", type=Path, required=True, help="a folder below --out")
    pictures.add_argument("--png", type=Path, required=True)
    pictures.set_defaults(do=lambda options: print(draw(options.loop, options.png)))
    options = parser.parse_args()
    if getattr(options, "images", None) and not (options.labels and options.task):
        parser.error("--images needs --labels and --task")
    options.do(options)


if __name__ == "__main__":
    show_plainly()
    main()
