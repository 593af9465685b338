"""The scans of a simulated annotation: a pool to label from, and scans held out to test every version on."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from custom.cohort.names import SUFFIXES, stem
from custom.errors import UserError
from custom.phantom import ensure

ROOT = Path(__file__).resolve().parents[2]

Entry = dict[str, str]


class CohortError(UserError, ValueError):
    """Images without labels, too few of them, or labels that hold no class indices."""


@dataclass(frozen=True)
class Cohort:
    """Cases have paths under ``image`` and ``label``; ``task`` is a file of a task."""

    task: str
    pool: list[Entry]
    held_out: list[Entry]

    def save(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path


def load(path: Path) -> Cohort:
    return Cohort(**json.loads(path.read_text(encoding="utf-8")))


def of_phantom(folder: Path, held_out: int) -> Cohort:
    """The 2D phantom: its training patients are the pool, the first of its test patients are held out."""
    parts = json.loads(
        ensure("2d", folder / "phantom_2d").with_name("list_all_labelled.json").read_text(encoding="utf-8")
    )
    cases = {part: [{key: str(folder / "phantom_2d" / entry[key]) for key in ("image", "label")} for entry in entries]
             for part, entries in parts.items()}  # fmt: skip
    return Cohort(str(ROOT / "custom/tasks/phantom_2d.yaml"), cases["labelled"], cases["test"][:held_out])


def of_folders(images: Path, labels: Path, task: Path, pool: int, held_out: int) -> Cohort:
    """Two folders with files of the same names, split by seed 0.

    Raises:
        CohortError: fewer than ``pool + held_out`` images have a label; the task's labels are not class indices.
    """
    values = yaml.safe_load(task.read_text(encoding="utf-8"))["label_values"]
    if values != list(range(len(values))):
        raise CohortError(
            f"{task}: label_values are {values}, expected class indices, as an annotator's program writes them"
        )
    by_stem = {stem(path): path for path in sorted(labels.iterdir()) if path.name.endswith(SUFFIXES)}
    found = [
        {"image": str(path.resolve()), "label": str(by_stem[stem(path)].resolve())}
        for path in sorted(images.iterdir())
        if path.name.endswith(SUFFIXES) and stem(path) in by_stem
    ]
    if len(found) < pool + held_out:
        raise CohortError(
            f"{images}: {len(found)} images with a label in {labels}, expected at least {pool + held_out}"
        )
    random.Random(0).shuffle(found)
    return Cohort(str(task.resolve()), found[:pool], found[pool : pool + held_out])
