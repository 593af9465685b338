"""The plan of a study: what was found, the task with its reasons, and a length that fits into the time allowed."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from .. import cores, markdown
from ..cohort.check import OF_A_TASK, Check
from ..cohort.fingerprint import describe, fingerprint
from ..cohort.found import patients as patients_of
from ..cohort.names import first_file
from ..cohort.record import Record
from ..cohort.split import ScansByPatient, can_evaluate, has_label
from ..cohort.words import plural
from ..files import write_text
from . import budget as lengths
from . import measured, rules, space, task_file
from .all_labelled import refuse_to_plan
from .annotation import corrected, shown
from .commands import IMPORTS, MEMORY, PEAK, SECONDS
from .jobs import CACHE, Job, Runner
from .measured import Measured
from .parts import MANY, Entries, Part, divide, entries_of, write_list
from .patients import Grouping, propose
from .remarks import refuse_blank, refuse_twins, remarks
from .seen import Seen, see
from .settings import FILE, TASK, Settings, StudyError, read, write
from .sources import Source, find
from .time_left import Speed
from .trainings import FINAL, RECORD, RUNS, WORK, by_patient, unlabelled_scans

FOLDS = (4, 3, 2)
PROBE = f"{WORK}/probe"
PAGE = "plan.md"
ASIDE = f"{WORK}/study.yaml.aside"
SOME_FOUR = range(3, 7)
PROBE_STEPS = 6  # of each of two epochs, of which the second is timed


@dataclass(frozen=True)
class Asked:
    """What the user says.

    Args:
        images, labels: see :func:`.sources.find`.
        budget: seconds for the whole study.
        patient: regular expression; empty: proposed from the names.
        classes: names of the label values except the background's, in their order; empty: those of ``dataset.json``.
        baseline, method: bundles.
        others: further bundles, reported beside the method.
        jobs: trainings side by side; 0: by the machine.
        seed: of everything random.
    """

    images: Path | Mapping[str, Path]
    labels: Path | None
    budget: float
    patient: str = ""
    classes: Sequence[str] = ()
    baseline: str = "supervised"
    method: str = "mean_teacher"
    others: Sequence[str] = ()
    jobs: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Cohort:
    """Scans by patient, and what was said on the way."""

    source: Source
    grouping: Grouping
    scans: ScansByPatient


def cohort_of(folder: Path, images: Path | Mapping[str, Path], labels: Path | None, patient: str) -> Cohort:
    """Find the scans and whose they are; errors of :func:`.sources.find` and of :func:`.annotation.corrected`.

    Args:
        folder: of the study.
        images, labels: see :func:`.sources.find`.
        patient: regular expression; empty: proposed from the names.

    Raises:
        StudyError: a pattern that does not fit all names.
    """
    source = corrected(find(images, labels), images, shown(folder, images, labels))
    names = [scan.name for scan in source.scans]
    if patient:
        whose = dict(zip(names, patients_of(names, patient), strict=True))
        grouping = Grouping(
            patient, {}, f"{len(set(whose.values()))} patients of {plural(len(names), 'scan')}, by --patient"
        )
    else:
        grouping = propose(names)
        whose = {name: patient for patient, found in grouping.patients.items() for name in found}
    return Cohort(source, grouping, by_patient(source.scans, whose))


def plan(folder: Path, asked: Asked, tell: Callable[[str], None] = print) -> Settings:
    """Look at the scans, measure the machine, and write ``plan.md``, ``task.yaml`` and, last, ``study.yaml`` into the
    folder: where it is, the study is planned.

    Raises:
        StudyError: the scans, or the time, do not suffice; the text is the whole report.
        CohortError: files that cannot be used, all of them in one report.
    """
    import torch

    start = time.monotonic()
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    cohort = cohort_of(folder, asked.images, asked.labels, asked.patient)
    for note in cohort.source.notes:
        tell(f"note: {note}")
    tell(f"Patients: {cohort.grouping.why}.")
    labelled = [patient for patient in cohort.scans if has_label(cohort.scans[patient])]
    tell(
        f"Labelled: {plural(len(labelled), 'patient')}; without a label: {plural(len(unlabelled_scans(cohort.scans)), 'scan')}."
    )
    refuse_to_plan(cohort.scans)
    folds = _folds(cohort.scans)
    parts = divide(cohort.scans, folds[0], asked.seed)
    everything = entries_of(replace(parts[0], train=(*parts[0].train, *parts[0].judges), judges=()), cohort.scans)
    record = Record(folder / RECORD)
    for line in describe(fingerprint(everything, record, len(cohort.source.classes))):
        tell(f"  {line}")
    refuse_twins(everything["labelled"], everything["unlabelled"], record)
    seen = _named(see(everything, cohort.source, record), asked.classes)
    odd = remarks(everything["labelled"], everything["unlabelled"], seen.classes, record)
    for line in odd:
        tell(f"note: {line}")
    planned = _planned(seen, gpu=torch.cuda.is_available())
    smallest = lengths.ROOMS[-1]
    (folder / PROBE).mkdir(exist_ok=True)
    task_file.write(folder / PROBE / TASK, planned[smallest])
    for text in _check(folder / PROBE / TASK, everything, record):
        tell(f"note: {text}")
    jobs, threads = _side_by_side(asked.jobs)
    names = (asked.baseline, asked.method, *asked.others)
    tell(f"Timing a few steps of {', '.join(names)} on this machine ...")
    each = {room: lengths.Voxels(_voxels(numbers), rules.scan_voxels(seen, room)) for room, numbers in planned.items()}
    costs, probed = _probe(folder, asked, parts[0], everything, cohort.scans, each[smallest], jobs, threads)
    sizes = lengths.Sizes(
        judged=_judged(parts, cohort.scans),
        held_out=_judged(divide(cohort.scans, 1, asked.seed), cohort.scans),
        unlabelled=len(unlabelled_scans(cohort.scans)),
    )
    fit = space.rooms_in_memory(probed, {room: voxels.batch for room, voxels in each.items()}, jobs)
    voxels = {room: each[room] for room, count in fit.items() if _carried(room, count, planned[room], jobs)}
    spent = time.monotonic() - start
    length = lengths.choose(
        asked.budget - spent, costs, sizes, voxels, names, jobs, folds, all(part.can_halve for part in parts), spent
    )
    settings = Settings(
        images=plain(asked.images), labels=str(asked.labels.resolve()) if asked.labels else "",
        patient=cohort.grouping.pattern, baseline=asked.baseline, method=asked.method, others=tuple(asked.others),
        folds=length.shape.folds, half=length.shape.half, steps=length.steps,
        steps_at_equal_time=length.steps_at_equal_time, jobs=jobs, threads=threads, seed=asked.seed, budget=asked.budget,
    )  # fmt: skip
    room = length.shape.room
    if text := rules.too_coarse(seen, room):
        tell(f"note: {text}")
        odd.append(text)
    widths, of_probe = (planned[of]["widths"].value for of in (room, smallest))
    later = [Path(first_file({"image": scan.image})) for scan in unlabelled_scans(cohort.scans)]
    then = costs.at(voxels[room])
    larger, finer = then.voxels.batch / costs.voxels.batch, then.voxels.scan / costs.voxels.scan
    takes = space.disk_needed(probed, widths, of_probe, later, finer)
    disk = space.check_disk(folder, takes.of(_count(length.shape, settings)))
    memory = space.memory_line(jobs, space.memory_of(probed, max(larger, finer)))
    tell(f"Room: {disk}; {memory}.")
    page = _page(settings, cohort, planned[room], length, then, folds, max(voxels), f"{disk}; {memory}", odd)
    _set_aside(folder, tell)
    measured.write(folder, Measured(takes, Speed(then.step, then.start, then.scan, then.reading)))
    write_text(folder / PAGE, page)
    task_file.write(folder / TASK, planned[room])
    # last: where it is, the study is planned, and all of the plan is there
    write(folder, settings)
    (folder / ASIDE).unlink(missing_ok=True)
    if finer == 1:
        _keep_scans(folder)
    shutil.rmtree(folder / PROBE, ignore_errors=True)
    return settings


def _set_aside(folder: Path, tell: Callable[[str], None]) -> None:
    """Copy ``task.yaml`` and ``study.yaml`` of an earlier plan to ``.before``, and set ``study.yaml`` aside: where this
    is killed, the study is not planned, rather than with an old ``study.yaml`` beside a new task."""
    # what a plan that was killed left is no plan: what it kept stays
    if not (folder / FILE).is_file():
        return
    for name in (FILE, TASK):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, folder / f"{name}.before")
            tell(f"note: what {name} said before is kept as {name}.before")
    (folder / FILE).replace(folder / ASIDE)


def planned_before(folder: Path) -> Settings | None:
    """What a study that is planned again was planned as, also where the plan that was to follow was killed; None where
    there was no plan.

    Raises:
        StudyError: see :func:`.settings.read`.
    """
    found = [name for name in (FILE, ASIDE) if (folder / name).is_file()]
    return read(folder, found[0]) if found else None


def _planned(seen: Seen, gpu: bool) -> dict[float, dict[str, rules.Number]]:
    """The numbers of a task by room; of the larger ones, for a GPU, those with which a patch sees more or finer."""
    found = {room: rules.numbers(seen, room=room) for room in lengths.ROOMS}
    before = found[lengths.ROOMS[0]]
    for room in reversed(lengths.LARGER if gpu else ()):
        numbers = rules.numbers(seen, room=room)
        if any(numbers[name].value != before[name].value for name in ("patch", "spacing_mm") if name in numbers):
            found[room] = before = numbers
    return found


def _carried(room: float, voxels: float, numbers: Mapping[str, rules.Number], jobs: int) -> bool:
    """Whether the GPU has memory for a larger room; what processor cores carry it carries too."""
    import torch

    if room not in lengths.LARGER:
        return True
    free, _ = torch.cuda.mem_get_info()
    return space.on_device(voxels, numbers["widths"].value[0], jobs) <= space.OF_MEMORY * free


def _count(shape: lengths.Shape, settings: Settings) -> int:
    """How many trainings a plan is made of."""
    return shape.folds * (2 + len(settings.others) + 2 * shape.half + bool(settings.steps_at_equal_time)) + 2


def _folds(scans: ScansByPatient) -> list[int]:
    """How many folds there may be, most first: one is the last, where the labelled patients suffice for a held-out part."""
    able = sum(can_evaluate(found) for found in scans.values())
    several = [count for count in FOLDS if count <= able]
    return several + [1] * (able >= MANY or not several)


def _judged(parts: Sequence[Part], scans: ScansByPatient) -> int:
    """Scans that judge in all parts together."""
    return sum(len(scans[patient]) for part in parts for patient in part.judges)


def plain(images: Path | Mapping[str, Path]) -> str | dict[str, str]:
    """Where the images are, as ``study.yaml`` keeps it: absolute, as text."""
    if isinstance(images, Mapping):
        return {name: str(path.resolve()) for name, path in images.items()}
    return str(images.resolve())


def _side_by_side(jobs: int) -> tuple[int, int]:
    """Trainings at a time and threads of each: one a core, where nothing better computes, of many cores some four that leave
    the fewest idle; on a GPU one."""
    import torch

    there = cores.count()
    some_four = sorted(SOME_FOUR, key=lambda count: (there % count, abs(count - 4)))[0]
    count = jobs or (1 if torch.cuda.is_available() else there if there <= 4 else some_four)
    return count, max(1, there // count)


def _voxels(numbers: Mapping[str, rules.Number]) -> float:
    voxels = 1.0
    for side in numbers["patch"].value:
        voxels *= side
    return voxels * (numbers["labelled_batch"].value + numbers["unlabelled_batch"].value)


def check(folder: Path, tell: Callable[[str], None] = print, missing: Sequence[Job] = ()) -> None:
    """Judge the scans of a study that is planned, as labels may have come, or files have changed, since; and whether
    there is room on disk for what is still to be trained.

    Args:
        missing: the trainings that are not done.

    Raises:
        StudyError: every fault of every case, or too little room; what was trained before is untouched.
    """
    everything = json.loads((folder / WORK / "final.json").read_text(encoding="utf-8"))
    for text in _check(
        folder / TASK, {part: everything[part] for part in ("labelled", "unlabelled")}, Record(folder / RECORD)
    ):
        tell(f"note: {text}")
    if (found := measured.read(folder)) and missing:
        names, maps = [job.name for job in missing], any(job.name.startswith(FINAL) for job in missing)
        space.check_disk(folder, found.disk.missing(folder / RUNS, folder / WORK / CACHE, names, maps))


def _check(path: Path, everything: Mapping[str, Any], record: Record) -> list[str]:
    """What is odd about the scans, for the task in a file.

    Raises:
        StudyError: every fault of every case, before anything is trained.
    """
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    used = {name: task[name] for name in OF_A_TASK if name in task}
    parts = {part: list(entries) for part, entries in everything.items() if entries or part == "labelled"}
    report = Check(**used, needs=("labelled",), record=record.path).report(parts)
    if report.faults:
        count = sum(map(len, report.faults.values()))
        raise StudyError(f"{plural(count, 'fault')} in the scans\n  {report.text()}")
    refuse_blank(parts["labelled"], record)
    report.odd.pop("copies", None)  # of unlabelled scans; of others refuse_twins speaks
    return report.warnings()


def _probe(
    folder: Path,
    asked: Asked,
    part: Part,
    everything: Entries,
    scans: ScansByPatient,
    voxels: lengths.Voxels,
    jobs: int,
    threads: int,
) -> tuple[lengths.Costs, space.Probed]:
    """Seconds of the reading, of a step, of a start and of a scan, and the room: a training of one step reads all scans, then
    others of a few steps run as the study will run them."""
    names = (asked.baseline, asked.method, *asked.others)
    runs, task = folder / PROBE / "runs", folder / PROBE / TASK
    every = write_list(folder / PROBE / "every.json", everything, folder / RECORD)
    data = write_list(folder / PROBE / "list.json", entries_of(part, scans), folder / RECORD)
    few = {"epoch_steps": PROBE_STEPS}
    reading = Job("reading", asked.method, every, task, 1, asked.seed)
    bundles = dict(zip(names, names, strict=True))
    bundles |= {f"beside_{k}": names[k % len(names)] for k in range(len(names), jobs)}  # as many at a time as later
    work = [Job(run, name, data, task, 2 * PROBE_STEPS, asked.seed, overrides=few) for run, name in bundles.items()]
    runner = Runner(runs, jobs, threads, tell=lambda _: None)
    # of a plan that was stopped: a reading that was done is timed, half of one tells no time, nor does a training that
    # others were to run beside
    stopped = [runs / run for run in bundles] if runner.done(reading) else [runs, runs.with_name(CACHE)]
    for path in stopped:
        shutil.rmtree(path, ignore_errors=True)
    if failed := runner.run([reading]) or runner.run(work):
        raise StudyError("A first try of the trainings failed:\n  " + "\n  ".join(failed.values()))
    step, beside, start, evaluating, taken = {}, {}, {}, [], []
    for name in names:
        took, epochs = _took(runs / name)
        evaluating.append(took["configs/evaluate.yaml"])
        memory = json.loads((runs / name / "job" / MEMORY).read_text(encoding="utf-8"))
        taken.append((memory[IMPORTS], memory[PEAK], space.on_disk(runs / name)))
        step[name] = epochs[-1] / PROBE_STEPS
        beside[name] = max(1.0, took[str(task)] - sum(epochs))
        start[name] = took[IMPORTS] + beside[name]
    took, epochs = _took(runs / reading.name)
    read = max(0.0, took[str(task)] - sum(epochs) - beside[asked.method])
    judged = sum(len(scans[patient]) for patient in part.judges)
    scan = max(0.02, min(evaluating) / (2 * judged))  # two networks each
    imports, peak, run = (max(column) for column in zip(*taken, strict=True))
    probed = space.Probed(imports, peak, run, space.on_disk(runs.with_name(CACHE)))
    return lengths.Costs(step, start, scan, voxels, read), probed


def _took(run: Path) -> tuple[dict[str, float], list[float]]:
    """Seconds of the commands of a run, and of its epochs."""
    took = json.loads((run / "job" / SECONDS).read_text(encoding="utf-8"))
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return took, [float(row["seconds"]) for row in csv.DictReader(file)]


def _keep_scans(folder: Path) -> None:
    """Move the scans that the probe has preprocessed to where the trainings look for them."""
    cache = folder / PROBE / CACHE
    for path in cache.glob("*/*"):
        place = folder / WORK / CACHE / path.relative_to(cache)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


def _named(seen: Seen, names: Sequence[str]) -> Seen:
    """The classes with the user's names.

    Raises:
        StudyError: as many names as there are classes are needed.
    """
    if not names:
        return seen
    values = [value for value in seen.classes if value]
    if len(names) != len(values):
        raise StudyError(f"--classes has {len(names)} names ({', '.join(names)}), labels have the values {values}. Give one a "
                         "value, in this order")  # fmt: skip
    return replace(seen, classes={0: "background", **dict(zip(values, names, strict=True))})


def _page(
    settings: Settings,
    cohort: Cohort,
    numbers: Mapping[str, rules.Number],
    length: lengths.Length,
    costs: lengths.Costs,
    folds: Sequence[int],
    finest: float,
    room: str,
    odd: Sequence[str],
) -> str:
    """``plan.md``: what was found, what will run and how long, what is left out, and each number's reason.

    Args:
        finest: of the grids that there is memory for.
        room: what it takes on disk and in memory.
    """
    scans, (baseline, method) = cohort.scans, (settings.baseline, settings.method)
    labelled = sum(has_label(found) for found in scans.values())
    judges = sum(len(part.judges) for part in divide(scans, settings.folds, settings.seed))
    those = (
        f"there is 1: {judges} of {labelled} labelled patients judge"
        if settings.folds == 1
        else f"there are {settings.folds}"
    )
    left_out = [text for text, there in (
        (f"{folds[0]} folds ({those})", settings.folds == folds[0]),
        ("trainings with half of the labels: what more labels would bring", settings.half or labelled < 3),
        (f"{baseline} once more, as long in time as {method}", bool(settings.steps_at_equal_time)),
        (f"a finer grid or larger patches (a batch has {length.shape.room:.0%} of the voxels)",
         length.shape.room == finest),
    ) if not there]  # fmt: skip
    no_memory = (
        [f"A grid of more than {finest:.0%} of the voxels is left out for lack of memory."] if finest < 1 else []
    )
    short = [f"{name}: {', '.join(f'{key} {value}' for key, value in of.items())}, as these trainings are short" for name, of in
             settings.overrides.items()]  # fmt: skip
    a_step = ", ".join(f"{costs.step[name]:.3f} s ({name})" for name in (baseline, method, *settings.others))
    runs = [f"{settings.folds} x {baseline} and {method}, {settings.steps} steps each, judged on the patients left out",
            f"{baseline} and {method} with all labels: the bundle, and the unlabelled scans segmented"]  # fmt: skip
    if settings.others:
        runs.append(
            f"{settings.folds} x {', '.join(settings.others)}, {settings.steps} steps each: reported beside {method}"
        )
    if settings.half:
        runs.append(f"{settings.folds} x {baseline} and {method} with half of the labelled patients")
    if settings.steps_at_equal_time:
        runs.append(f"{settings.folds} x {baseline}, {settings.steps_at_equal_time} steps: as long as {method} takes")
    parts = [
        "# The plan of this study",
        f"{plural(labelled, 'labelled patient')}, {plural(len(unlabelled_scans(scans)), 'unlabelled scan')}. Patients: "
        f"{cohort.grouping.why}. (`--patient` says it otherwise: {settings.patient})",
        *([f"Note: {note}." for note in [*cohort.source.notes, *odd]]),
        "## What will run",
        "\n".join(f"- {line}" for line in [*runs, *short]),
        f"Expected: {lengths.minutes(length.seconds)} of the {lengths.minutes(settings.budget)} allowed, "
        f"{settings.jobs} at a time, {plural(settings.threads, 'thread')} each. A step takes {a_step} on this machine.",
        " ".join([f"It takes {room}.", *no_memory]),
        "## What is left out for lack of time",
        "\n".join(f"- {text}" for text in left_out) if left_out else "Nothing.",
        "## The task, and why",
        markdown.table(["setting", "value", "reason"], [[n, _short(v.value), v.reason] for n, v in numbers.items() if v.reason],
                       texts=3),
        "All of it stands in task.yaml. Change study.yaml or task.yaml, then: `python -m custom.study run FOLDER`",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _short(value: Any) -> str:
    return "see task.yaml" if isinstance(value, Mapping) else str(value)
