"""Two folders in, one page out.

    python -m custom.study FOLDER --images /data/images --labels /data/labels --budget 2h
    python -m custom.study plan FOLDER --images ... --labels ...   look, measure, write the plan: plan.md, study.yaml, task.yaml
    python -m custom.study run FOLDER                              what the plan says and is not done yet, then the page
    python -m custom.study report FOLDER                           the page of what is done so far: verdict.html

Without a step, all of them; a study that is there already goes on. Each can be stopped at any time and goes on from there.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..cohort.make import folders
from ..cohort.words import plural
from ..errors import show_plainly
from ..files import typed
from ..run.folder import RunFolder
from . import measured, verdict
from . import settings as study
from .all_labelled import refuse_to_go_on
from .budget import minutes, seconds
from .durations import Taken, valid
from .jobs import BUNDLES, Runner, Stopped
from .plan import Asked, check, cohort_of, plain, plan, planned_before
from .settings import FILE, TASK, Settings, StudyError, named_twice
from .state import State
from .time_left import Speed
from .trainings import RUNS, Trainings, trainings

STEPS = ("plan", "run", "report")
DEFAULTS: dict[str, Any] = {"budget": seconds("2h"), "patient": "", "baseline": "supervised", "methods": ["mean_teacher"],
                            "jobs": 0, "seed": 0}  # fmt: skip


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
        failed: dict[str, str] = {}
        taken, took = Taken.read(folder), math.nan  # not known before the trainings are
        try:
            if planned:
                settings = plan(folder, _asked(options, folder), tell)
                tell(
                    f"The plan: {folder / 'plan.md'}. {settings.steps} steps a training, {plural(settings.folds, 'fold')}."
                )
            if step == "plan":
                return 0
            settings = study.read(folder)
            if not planned and (unused := _unused(options, settings)):
                tell(
                    f"Not used, as the study is planned already: {', '.join(unused)}. {_change(unused, folder / FILE)}: "
                    f"python -m custom.study plan {shlex.quote(str(folder))} {' '.join(unused)}"
                )
            found = _trainings(folder, settings, planned)
            # asked before a training is made anew: what it took until now is known from what it left
            took = taken.of(folder / RUNS, found.jobs)
            speed = known.speed if (known := measured.read(folder)) else Speed()
            runner = Runner(folder / RUNS, settings.jobs, settings.threads, tell, speed=speed)
            if step == "report":
                failed = runner.failures(found.jobs)
            else:
                check(folder, tell, [job for job in found.jobs if not runner.done(job)])
                tell(
                    f"{len(found.jobs)} trainings, {settings.jobs} at a time. Stop at any time; the same command goes on."
                )
                failed = runner.run(found.jobs)
        except Stopped:
            tell("Stopped. It goes on with the same command.")
            return 130
        finally:  # a call that is stopped, or ends with a fault, has taken its time too
            now = time.monotonic() - start
            if math.isnan(took):
                replace(taken, before=taken.before + now).write(folder)
            elif step != "report":
                took += now
                Taken(took, tuple(valid(folder / RUNS, found.jobs))).write(folder)
        task = yaml.safe_load((folder / TASK).read_text(encoding="utf-8"))
        page = verdict.write(State(folder, settings, task, found, failed, took))
    tell(f"Took {minutes(time.monotonic() - start)}. The page: {page}")
    return 1 if failed else 0


def tell(text: str) -> None:
    """Print a line for the user, at once even where the output is not a terminal."""
    print(text, flush=True)


def _trainings(folder: Path, settings: Settings, planned: bool) -> Trainings:
    """What is to be trained; notes on the scans are told unless the plan has just told them.

    Raises:
        StudyError: see :func:`.all_labelled.refuse_to_go_on`.
    """
    images: Path | Mapping[str, Path] = (
        {name: Path(path) for name, path in settings.images.items()}
        if isinstance(settings.images, Mapping)
        else Path(settings.images)
    )
    cohort = cohort_of(folder, images, Path(settings.labels) if settings.labels else None, settings.patient)
    if not planned:
        for note in cohort.source.notes:
            tell(f"note: {note}")
    refuse_to_go_on(folder, settings, cohort.scans)
    return trainings(folder, settings, cohort.scans)


def _asked(options: argparse.Namespace, folder: Path) -> Asked:
    """What the user says; what is not said, of a study that is planned again as it was, else by default.

    Raises:
        StudyError: no images are named, and there is no plan that names some; a bundle that is unknown or named twice.
    """
    there = planned_before(folder)
    if not options.images and there is None:
        raise StudyError(f"{options.folder} has no plan yet: say where the scans are, --images DIR --labels DIR")
    given = {name: value for name in DEFAULTS if (value := getattr(options, name)) is not None}
    before = {} if there is None else {name: value for name in DEFAULTS if (value := _planned(there, name)) is not None}
    said = {**DEFAULTS, **before, **given}
    bundles = (said["baseline"], *said["methods"])
    if twice := named_twice(bundles):
        raise StudyError(f"{twice} is named twice: --baseline and --methods are different bundles")
    for name in bundles:
        if not (BUNDLES / name / "configs/train.yaml").is_file():
            known = sorted(path.name for path in BUNDLES.iterdir() if path.is_dir())
            raise StudyError(f"there is no bundle {name}. There are {', '.join(known)}")
    if options.images or there is None:
        images, labels = folders(options.images), options.labels
    else:
        kept = there.images
        images = {name: Path(path) for name, path in kept.items()} if isinstance(kept, Mapping) else Path(kept)
        labels = options.labels or (Path(there.labels) if there.labels else None)
    classes = options.classes or ("" if there is None else ",".join(_classes(folder)))
    return Asked(
        images=images, labels=labels, budget=said["budget"], patient=said["patient"],
        classes=[name.strip() for name in classes.split(",")] if classes else (), baseline=said["baseline"],
        method=said["methods"][0], others=tuple(said["methods"][1:]), jobs=said["jobs"], seed=said["seed"],
    )  # fmt: skip


def _planned(settings: Settings, name: str) -> Any:
    """An option as the plan has it; None where the plan chose by itself and may choose again."""
    if name == "methods":
        return [settings.method, *settings.others]
    return None if name == "jobs" else getattr(settings, name)


def _classes(folder: Path) -> list[str]:
    """Names of the classes of the existing task, except the background's."""
    path = folder / TASK
    return list(map(str, yaml.safe_load(path.read_text(encoding="utf-8"))["classes"][1:])) if path.is_file() else []


def _change(unused: Sequence[str], file: Path) -> str:
    """What to do with options that a plan does not follow: a changed budget plans nothing, and ``task.yaml`` has the classes."""
    effective = [text for text in unused if not text.startswith(("--budget ", "--classes "))]
    if not effective:
        return "Plan it again"
    which = "Change" if len(effective) == len(unused) else f"For {', '.join(effective)} change"
    return f"{which} {file}, or plan it again"


def _unused(options: argparse.Namespace, settings: Settings) -> list[str]:
    """Options that were given and that the plan there is does not follow."""
    scans = []
    if options.images and plain(folders(options.images)) != settings.images:
        scans.append(f"--images {shlex.join(options.images)}")
    if options.labels and str(options.labels.resolve()) != settings.labels:
        scans.append(f"--labels {shlex.quote(str(options.labels))}")
    if options.methods and list(options.methods) != [settings.method, *settings.others]:
        scans.append(f"--methods {shlex.join(options.methods)}")
    if options.classes and [name.strip() for name in options.classes.split(",")] != _classes(options.folder.resolve()):
        scans.append(f"--classes {shlex.quote(options.classes)}")
    return scans + [
        f"--{name} {f'{value:g}s' if name == 'budget' else shlex.quote(str(value))}"
        for name in ("budget", "patient", "baseline", "jobs", "seed")
        if (value := getattr(options, name)) not in (None, getattr(settings, name))
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m custom.study [plan | run | report]", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("folder", type=typed, help="of the study: everything goes there")
    add("--images", nargs="+", help="a folder; NAME=FOLDER for each modality; or a data set of nnU-Net or MSD as it is")
    add("--labels", type=typed, help="a folder; a label has the name of its image")
    add("--budget", type=seconds, help="time for all of it: 90s, 45m, 2h (default: 2h)")
    add("--patient", help="regular expression; its first group, in a scan's name, is the patient")
    add("--classes", default="", help="names of the label values above 0, by commas")
    add("--baseline", help="bundle that learns from labelled scans alone (default: supervised)")
    add("--methods", nargs="+", metavar="BUNDLE",
        help="that learn from unlabelled ones too; the verdict is on the first (default: mean_teacher)")  # fmt: skip
    add("--jobs", type=int, help="trainings side by side (default: by the machine)")
    add("--seed", type=int, help="of everything random (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
