"""``study.yaml``: what a study runs, written by the plan, open to the user's changes, read by every later step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, nearest
from ..files import write_text

FILE = "study.yaml"
TASK = "task.yaml"
BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


class StudyError(UserError, ValueError):
    """A study cannot be planned, run or told."""


@dataclass(frozen=True)
class Settings:
    """What a study runs.

    Args:
        images: a folder, or a folder for each modality by its name.
        labels: a folder; empty where the images' own ``dataset.json`` says where labels are.
        patient: regular expression whose first group, in a scan's name, is the patient.
        baseline, method: bundles; the method is the one that learns from unlabelled scans too.
        others: further bundles, each trained in every fold and reported beside the method.
        folds: of the labelled patients; each judges in one, and trains in the others. 1: a held-out part judges.
        half: whether each fold is trained with half of its labelled patients as well.
        steps: optimiser steps of every training.
        steps_at_equal_time: of the baseline once more, so long that it takes as long as the method; 0: not run.
        jobs, threads: trainings side by side, and processor threads of each.
        seed: of everything random.
        budget: seconds that the plan was made for.
        overrides: of the bundles' configs, by the name of the bundle.
    """

    images: str | Mapping[str, str]
    labels: str
    patient: str
    baseline: str = "supervised"
    method: str = "mean_teacher"
    others: Sequence[str] = ()
    folds: int = 2
    half: bool = False
    steps: int = 1000
    steps_at_equal_time: int = 0
    jobs: int = 1
    threads: int = 1
    seed: int = 0
    budget: float = 0.0
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def one_folder(self) -> bool:
        """Whether the images lie in one folder, as themselves and not as a data set, whose ``dataset.json`` says where the
        labels are."""
        return isinstance(self.images, str) and bool(self.labels)


_ABOUT = {
    "images": "a folder, or one for each modality",
    "labels": "a label has the name of its image",
    "patient": "what in a scan's name is the patient: its first group",
    "baseline": "the bundle that learns from labelled scans alone",
    "method": "the bundle that learns from the unlabelled ones too",
    "others": "further bundles, each in every fold, reported beside the method",
    "folds": "each labelled patient judges in one and trains in the others; 1: a held-out part judges",
    "half": "true: each fold with half of its labelled patients as well (what more labels would bring)",
    "steps": "optimiser steps of every training",
    "steps_at_equal_time": "of the baseline once more, as long in time as the method; 0: left out",
    "jobs": "trainings side by side",
    "threads": "of the processor, for each",
    "seed": "of everything random",
    "budget": "seconds that this was planned for",
    "overrides": "of a bundle's config, by the bundle's name",
}


def write(folder: Path, settings: Settings) -> Path:
    """Write ``study.yaml`` into the folder of a study, a comment a line."""
    lines = ["# A study: change it and run `python -m custom.study run FOLDER` again. What a change touches runs anew."]
    for name, about in _ABOUT.items():
        value = getattr(settings, name)
        value = dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("...\n")
        lines.append(f"{f'{name}: {text.strip()}':<28} # {about}")
    write_text(folder / FILE, "\n".join(lines) + "\n")
    return folder / FILE


def read(folder: Path, name: str = FILE) -> Settings:
    """Read the ``study.yaml`` of a study, or another file of its kind by its ``name``.

    Raises:
        StudyError: there is none; a name that is unknown or missing, a value of another kind, a bundle that does not
            exist; all of them in one report.
    """
    path = folder / name
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(
            f"{folder} is not a study: it has no {name}. Plan one first: python -m custom.study plan"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from error
    known = {each.name for each in fields(Settings)}
    if not isinstance(content, dict):
        raise StudyError(f"{path} holds no settings. Plan the study again")
    faults = [f"{name} is not a setting{nearest(str(name), known)}" for name in content if name not in known]
    faults += [f"{name} is missing" for name in ("images", "labels", "patient") if name not in content]
    faults += [text for name, value in content.items() if name in known and (text := _fault(name, value))]
    if not faults:
        settings = Settings(**{**content, "others": tuple(content.get("others", ()))})
        if twice := named_twice((settings.baseline, settings.method, *settings.others)):
            faults = [f"{twice} is named twice; expected different bundles as baseline, method and others"]
        faults += _no_bundles(settings)
    if faults:
        raise StudyError(f"{path} cannot be used:\n  " + "\n  ".join(faults))
    return settings


def named_twice(bundles: Sequence[str]) -> str:
    """The first of the bundles that stands there a second time: its trainings would share a folder; empty: none."""
    return next((name for i, name in enumerate(bundles) if name in bundles[:i]), "")


def _no_bundles(settings: Settings) -> list[str]:
    known = sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/train.yaml"))
    named = [("baseline", settings.baseline), ("method", settings.method)]
    named += [("others", name) for name in settings.others] + [("overrides", str(name)) for name in settings.overrides]
    return [
        f"{setting}: there is no bundle {name!r}{nearest(name, known)}; there are {', '.join(known)}"
        for setting, name in named
        if name not in known
    ]


_LEAST = {"folds": 1, "steps": 1, "steps_at_equal_time": 0, "jobs": 1, "threads": 1, "seed": 0}


def _fault(name: str, value: Any) -> str:
    if name in _LEAST and (not isinstance(value, int) or isinstance(value, bool) or value < _LEAST[name]):
        return f"{name} is {value!r}; expected a whole number >= {_LEAST[name]}"
    if name == "half" and not isinstance(value, bool):
        return f"half is {value!r}; expected true or false"
    if name in ("labels", "patient", "baseline", "method") and not isinstance(value, str):
        return f"{name} is {value!r}; expected a text"
    if name == "others" and not (isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)):
        return f"others is {value!r}; expected the names of bundles, [unimatch, bcp]"
    if name == "overrides" and not (isinstance(value, dict) and all(isinstance(of, dict) for of in value.values())):
        return (
            f"overrides is {value!r}; expected settings by the name of a bundle, {{mean_teacher: {{ema_decay: 0.98}}}}"
        )
    if name == "images" and not isinstance(value, (str, dict)):
        return f"images is {value!r}; expected a folder, or a folder for each modality by its name"
    return ""
