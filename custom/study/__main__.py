"""Two folders in, one page out.

    python -m custom.study FOLDER --images /data/images --labels /data/labels --budget 2h
    python -m custom.study plan FOLDER --images ... --labels ...   look, measure, write the plan: plan.md, study.yaml, task.yaml
    python -m custom.study run FOLDER                              what the plan says and is not done yet, then the page
    python -m custom.study report FOLDER                           the page of what is done so far: verdict.html

Without a step, all of them; a study that is there already goes on. Each can be stopped at any time and goes on from there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ..errors import show_plainly
from ..files import typed
from ..run.folder import RunFolder
from . import settings as study
from . import verdict
from .budget import minutes, seconds
from .jobs import BUNDLES, Runner, Stopped
from .plan import Asked, cohort_of, plain, plan
from .settings import FILE, TASK, Settings, StudyError, named_twice
from .state import State
from .trainings import RUNS, Trainings, trainings

STEPS = ("plan", "run", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps that are named, or all; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    step = words.pop(0) if words and words[0] in STEPS else ""
    options = _parser().parse_args(words)
    show_plainly()
    folder = options.folder.resolve()
    start = time.monotonic()
    with RunFolder(folder, option="folder"):
        planned = step == "plan" or (not step and not (folder / FILE).is_file())
        if planned:
            asked = _asked(options)
            settings = plan(folder, asked, tell)
            tell(f"The plan: {folder / 'plan.md'}. {settings.steps} steps a training, {settings.folds} fold(s).")
        if step == "plan":
            return 0
        settings = study.read(folder)
        if not planned and (unused := _unused(options, settings)):
            tell(
                f"Not used, as the study is planned already: {', '.join(unused)}. Change {folder / FILE}, or plan it again: "
                f"python -m custom.study plan {folder} ..."
            )
        found = _trainings(folder, settings, planned)
        failed: dict[str, str] = {}
        if step != "report":
            tell(f"{len(found.jobs)} trainings, {settings.jobs} at a time. Stop at any time; the same command goes on.")
            try:
                failed = Runner(folder / RUNS, settings.jobs, settings.threads, tell).run(found.jobs)
            except Stopped:
                tell(f"Stopped. It goes on with: python -m custom.study run {folder}")
                return 130
        task = yaml.safe_load((folder / TASK).read_text(encoding="utf-8"))
        page = verdict.write(State(folder, settings, task, found, failed, _seconds(folder, start)))
    tell(f"Took {minutes(time.monotonic() - start)}. The page: {page}")
    return 1 if failed else 0


def tell(text: str) -> None:
    """A line for the user, at once also where the output is no terminal."""
    print(text, flush=True)


def _trainings(folder: Path, settings: Settings, planned: bool) -> Trainings:
    """What is to be trained; notes on the scans are told unless the plan has just told them."""
    images: Path | Mapping[str, Path] = (
        {name: Path(path) for name, path in settings.images.items()}
        if isinstance(settings.images, Mapping)
        else Path(settings.images)
    )
    cohort = cohort_of(images, Path(settings.labels) if settings.labels else None, settings.patient)
    if not planned:
        for note in cohort.source.notes:
            tell(f"note: {note}")
    return trainings(folder, settings, cohort.scans)


def _seconds(folder: Path, start: float) -> float:
    """Of all calls so far."""
    path = folder / "work/seconds"
    before = float(path.read_text()) if path.is_file() else 0.0
    total = before + time.monotonic() - start
    path.write_text(f"{total:.0f}\n")
    return total


def _asked(options: argparse.Namespace) -> Asked:
    if not options.images:
        raise StudyError(f"{options.folder} has no plan yet: say where the scans are, --images DIR --labels DIR")
    bundles = (options.baseline, *options.methods)
    if twice := named_twice(bundles):
        raise StudyError(f"{twice} is named twice: --baseline and --methods are different bundles")
    for name in bundles:
        if not (BUNDLES / name / "configs/train.yaml").is_file():
            known = sorted(path.name for path in BUNDLES.iterdir() if path.is_dir())
            raise StudyError(f"there is no bundle {name}. There are {', '.join(known)}")
    return Asked(
        images=_folders(options.images), labels=options.labels, budget=options.budget,
        patient=options.patient, classes=[name.strip() for name in options.classes.split(",")] if options.classes else (),
        baseline=options.baseline, method=options.methods[0], others=tuple(options.methods[1:]), jobs=options.jobs,
        seed=options.seed,
    )  # fmt: skip


def _unused(options: argparse.Namespace, settings: Settings) -> list[str]:
    """Options that a plan takes and that differ from the one there is."""
    parser = _parser()
    scans = []
    if options.images and plain(_folders(options.images)) != settings.images:
        scans.append(f"--images {' '.join(options.images)}")
    if options.labels and str(options.labels.resolve()) != settings.labels:
        scans.append(f"--labels {options.labels}")
    methods = (settings.method, *settings.others)
    if tuple(options.methods) not in (tuple(parser.get_default("methods")), methods):
        scans.append(f"--methods {' '.join(options.methods)}")
    return scans + [
        f"--{name} {f'{value:g}s' if name == 'budget' else value}"
        for name in ("budget", "patient", "baseline", "jobs", "seed")
        if (value := getattr(options, name)) not in (parser.get_default(name), getattr(settings, name))
    ]


def _folders(words: Sequence[str]) -> Path | dict[str, Path]:
    from ..cohort.make import folders

    return folders(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m custom.study [plan | run | report]", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("folder", type=typed, help="of the study: everything goes there")
    add("--images", nargs="+", help="a folder; NAME=FOLDER for each modality; or a data set of nnU-Net or MSD as it is")
    add("--labels", type=typed, help="a folder; a label has the name of its image")
    add("--budget", type=seconds, default=seconds("2h"), help="time for all of it: 90s, 45m, 2h (default: 2h)")
    add("--patient", default="", help="regular expression; its first group, in a scan's name, is the patient")
    add("--classes", default="", help="names of the label values above 0, by commas")
    add("--baseline", default="supervised", help="bundle that learns from labelled scans alone")
    add("--methods", nargs="+", default=["mean_teacher"], metavar="BUNDLE",
        help="that learn from unlabelled ones too; the verdict is on the first, others stand beside it")  # fmt: skip
    add("--jobs", type=int, default=0, help="trainings side by side (default: by the machine)")
    add("--seed", type=int, default=0, help="of everything random")
    return parser


if __name__ == "__main__":
    sys.exit(main())
