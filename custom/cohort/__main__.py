"""``python -m custom.cohort make ...`` makes a list from folders, ``python -m custom.cohort check ...`` judges one."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import show_plainly
from ..files import located, typed
from . import data_list, make
from .check import OF_A_TASK, Check, Report
from .data_list import PARTS
from .errors import CohortError
from .facts import Facts
from .formats.itk_image import is_picture
from .json_files import raw_text, read_split
from .record import Record
from .words import plural


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that is named first."""
    parser = argparse.ArgumentParser(prog="python -m custom.cohort", description=__doc__)
    parser.add_argument("command", choices=("make", "check"), help="make a list from folders; check the files of one")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    show_plainly()
    {"make": make_list, "check": check}[options.command](options.arguments)


def make_list(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom.cohort make ...``, without the word ``make``.

    Raises:
        CohortError: of :func:`.make.make`, and of what the options name.
    """
    options = parser_of_make().parse_args(arguments)
    paths = make.make(
        make.folders(options.images),
        options.labels,
        options.out,
        options.patient,
        read_split(options.split) if options.split else None,
        options.labelled,
        options.validation,
        options.test,
        options.seed,
        options.folds,
        make.read_attributes(options.attributes) if options.attributes else None,
    )
    print("\n".join(map(make.summary, paths)))


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {text!r}")
    return int(text)


def _number_or_percent(text: str) -> int | str:
    if re.fullmatch(r"\d+(\.\d+)?%", text):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number >= 0, or a percentage such as 10%, got {text!r}")
    return int(text)


def parser_of_make() -> argparse.ArgumentParser:
    """The options of ``python -m custom.cohort make``."""
    parser = argparse.ArgumentParser(prog="python -m custom.cohort make", description=make.__doc__)
    parser.add_argument("--images", nargs="+", required=True, help="a folder; or NAME=FOLDER for each modality")
    parser.add_argument("--labels", type=typed, required=True, help="folder; a label has the name of its image")
    parser.add_argument("--out", type=typed, required=True, help="the list to write, JSON")
    parser.add_argument("--patient", default=r"^(.*)$", help="regular expression; its first group is the patient")
    parser.add_argument("--split", type=typed, help="JSON with the patients under train, val, test (or under 'split')")
    parser.add_argument("--labelled", type=_number_or_percent, default=0,
                        help="patients, or '10%%' of those for training; 0: all that have a label")  # fmt: skip
    parser.add_argument("--validation", type=_number, default=0, help="patients")
    parser.add_argument("--test", type=_number, default=0, help="patients")
    parser.add_argument("--seed", type=_number, default=0, help="of the drawing")
    parser.add_argument("--folds", type=_number, default=0, help="write as many lists, for cross-validation")
    parser.add_argument("--attributes", type=typed,
                        help="of patients: CSV with a column 'patient', or JSON {\"diagnosis\": {\"p01\": \"DCM\"}}")  # fmt: skip
    return parser


def check(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom.cohort check list.json [--task task.yaml] [--again | --no-record]``.

    Raises:
        CohortError: the list, the task file or scans cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m custom.cohort check",
        description="Judge the files of a data list: every fault of every case in one report.",
    )
    parser.add_argument("data_list", type=typed)
    parser.add_argument("--task", type=typed, help="YAML file with channels, classes, dimensions, slices, ...")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--again", action="store_true", help="read every file, also those unchanged since an earlier check"
    )
    which.add_argument("--no-record", action="store_true", help="read every file, keep no record beside the list")
    options = parser.parse_args(arguments)
    start, path = time.monotonic(), located(options.data_list)
    entries = data_list.load(path)
    record = Record(None if options.no_record else data_list.record_path(path), options.again)
    task = _task(options.task) if options.task else _guess(path, entries, record)
    parts = {part: found for part, found in entries.items() if found or part == "labelled"}
    needs = () if list(parts) == ["labelled", "test"] else ("labelled",)  # a list for evaluation alone
    report = Check(**task, needs=needs, record=record).report(parts)
    print(path, *(_summary(part, report) for part in PARTS), sep="\n  ")
    if report.orientations and not any(report.orientations in note for note in report.notes):
        print(f"  orientation of the volumes: {report.orientations}")
    for line in [*report.notes, *(f"warning: {text}" for text in report.warnings())]:
        print(f"  {line}")
    if report.faults:
        raise CohortError(f"{plural(sum(map(len, report.faults.values())), 'fault')} in {path}\n  {report.text()}")
    seconds = time.monotonic() - start
    print(f"No faults in {plural(len(report.cases), 'scan')} ({seconds:.1f} s; {report.reading()}).")


def _task(path: Path) -> dict[str, Any]:
    try:
        task = yaml.safe_load(raw_text(path))
    except CohortError as error:
        raise CohortError(f"--task {error}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise CohortError(f"--task {path} cannot be read: {error}") from error
    if not isinstance(task, dict) or not all(isinstance(task.get(name), list) for name in ("channels", "classes")):
        raise CohortError(f"--task {path}: expected YAML with lists under channels and classes, as in custom/tasks")
    return {name: task[name] for name in OF_A_TASK if name in task}


def _guess(path: Path, entries: Mapping[str, list[dict]], record: Record) -> dict[str, Any]:
    """The task where none is given: what the fingerprint says, else as many channels as the first scan that can be read."""
    fingerprint = json.loads(raw_text(path)).get("fingerprint")
    if isinstance(fingerprint, dict) and fingerprint.get("channels") and fingerprint.get("label_values"):
        return {name: fingerprint[name] for name in ("channels", "label_values")}
    image = next((entry["image"] for part in PARTS for entry in entries[part] if entry.get("image")), "")
    if isinstance(image, Mapping):
        return {"channels": list(image)}
    first = record.facts([image])[image] if os.path.exists(image) else None
    count = first.channels if isinstance(first, Facts) else 0
    return {"channels": ["image"] if count == 1 else [f"channel {number + 1}" for number in range(count)]}


def _summary(part: str, report: Report) -> str:
    """``labelled    14 scans of 7 patients: 216-256 x 208-288 x 6-10 voxels of 1.37-1.79 x 1.37-1.79 x 5-10 mm``."""
    cases = [case for case in report.cases if case.part == part]
    count = f"{plural(len(cases), 'scan')} of {plural(len({case.patient for case in cases}), 'patient')}"
    text = f"{part:<11}{count if cases else 'none'}"
    images = [(file, report.facts[file]) for case in cases for file in case.files.values() if file in report.facts]
    forms = []
    for axes in (2, 3):
        shapes = [facts.shape for _, facts in images if len(facts.shape) == axes]
        spacings = [facts.spacing_mm for file, facts in images if len(facts.shape) == axes and not is_picture(file)]
        size = f"{_ranges(shapes)} voxels" if shapes else ""
        forms.append(size + (f" of {_ranges(spacings)} mm" if spacings else ""))
    return ": ".join(filter(None, (text, "; ".join(filter(None, forms)))))


def _ranges(rows: Sequence[Sequence[float]]) -> str:
    """Smallest to largest on each axis: ``216-256 x 256``."""
    ends = [(f"{min(column):.4g}", f"{max(column):.4g}") for column in zip(*rows, strict=True)]
    return " x ".join(low if low == high else f"{low}-{high}" for low, high in ends)


if __name__ == "__main__":
    main()
