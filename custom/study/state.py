"""What a study has found so far, and where each part of it lies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..cohort.names import case_names, first_file, stem
from ..cohort.split import FoundScan
from .jobs import SCORES, SUMMARY, stale
from .parts import Part
from .settings import Settings
from .trainings import RUNS, WORK, Trainings, fold_name


@dataclass
class State:
    """What a study has found so far."""

    folder: Path
    settings: Settings
    task: Mapping[str, Any]
    trainings: Trainings
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def runs(self) -> Path:
        return self.folder / RUNS

    @property
    def labelled(self) -> int:
        """How many labelled patients there are."""
        part = self.trainings.parts[0]
        return len(part.train) + len(part.judges)

    @cached_property
    def parts(self) -> list[Part]:
        """The parts that the verdict is on: both bundles are scored in them."""
        return self.judged((self.settings.baseline, ""), (self.settings.method, ""))

    @cached_property
    def only_unlabelled(self) -> bool:
        """Whether the runs of every part say that the two differ only in the use of the unlabelled scans."""
        from ..evaluation.same_settings import only_unlabelled_differs  # brings MONAI, which the other steps do without

        return all(only_unlabelled_differs(*(self.table(part, of) for of in self.bundles)) for part in self.parts)

    @property
    def bundles(self) -> tuple[str, str]:
        return self.settings.baseline, self.settings.method

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called: by the use that they make of the unlabelled scans where that is all, else by the bundles."""
        return ("without", "with") if self.only_unlabelled else self.bundles

    @property
    def phrases(self) -> tuple[str, str]:
        """Phrases that follow a figure: ``with the unlabelled scans``, or ``of mean_teacher``."""
        baseline, method = (f"{name} the unlabelled scans" for name in ("without", "with"))
        return (baseline, method) if self.only_unlabelled else (f"of {self.bundles[0]}", f"of {self.bundles[1]}")

    @cached_property
    def scan_names(self) -> dict[str, str]:
        """The name of the scan of every image file (of several modalities, of the first one's)."""
        return {_first(scan): scan.name for scan in self.trainings.scans}

    @cached_property
    def judges(self) -> dict[str, dict[str, Any]]:
        """The entry in the data list of every scan that judges, by its name in the tables of cases."""
        found: dict[str, dict[str, Any]] = {}
        for part in self.trainings.parts:
            entries = json.loads((self.folder / WORK / f"{part.name}.json").read_text(encoding="utf-8"))["test"]
            found |= zip(case_names(entries, self.task["channels"]), entries, strict=True)
        return found

    def scan_of_case(self, case: str) -> str:
        """The name of a scan that the tables of cases call so: without the channel that nnU-Net writes after it."""
        file = first_file(self.judges[case])
        return self.scan_names.get(file, stem(file))

    def image_of(self, name: str) -> str:
        """The image of a scan; of several modalities the first."""
        return next(_first(scan) for scan in self.trainings.scans if scan.name == name)

    def table(self, part: Part, bundle: str, kind: str = "") -> Path:
        return self.runs / fold_name(part, bundle, kind) / SCORES / "model.csv"

    def judged(self, *kinds: tuple[str, str]) -> list[Part]:
        """The parts in which all of these, each a bundle and a kind, are scored as the study is now."""
        return [part for part in self.trainings.parts if all(self.scored(part, *kind) for kind in kinds)]

    def scored(self, part: Part, bundle: str, kind: str = "") -> bool:
        """Whether a run is scored as the study is now: a job that begins anew removes the summary, and the table may stay."""
        summary = self.table(part, bundle, kind).with_name(SUMMARY)
        return summary.is_file() and fold_name(part, bundle, kind) not in self.stale

    @cached_property
    def stale(self) -> frozenset[str]:
        """Names of the runs that were made under other settings, labels or images than the study has now."""
        return frozenset(job.name for job in self.trainings.jobs if stale(self.runs / job.name, job))


def _first(scan: FoundScan) -> str:
    return str(next(iter(scan.image.values())) if isinstance(scan.image, Mapping) else scan.image)
