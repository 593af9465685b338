"""The scans without a label: how good their segmentation is likely to be, which are unlike, which to look at first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..cohort.facts import Facts
from ..cohort.fingerprint import image_files
from ..cohort.names import first_file, stem
from ..cohort.record import Record
from ..cohort.words import plural
from ..inference.confidence import FILE as CONFIDENCE
from ..report import pair
from ..report.tables import Cell, Column, Table, number, texts
from . import quality
from .jobs import MAPS
from .label_maps import map_of, read_map
from .parts import Part
from .state import State
from .trainings import RECORD, WORK, final_name, fold_name
from .unlike import unlike

BEYOND = "the networks agree less than on any labelled scan"


@dataclass(frozen=True)
class Later:
    """An unlabelled scan as the page lists it."""

    name: str
    predicted: float  # NaN: no figure
    agreement: float
    confidence: float
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Scans:
    """The unlabelled scans, those to correct first at the top, and how far the prediction of their quality can be trusted."""

    order: list[Later] = field(default_factory=list)
    table: Table | None = None
    quality: quality.Quality | None = None
    unlike: int = 0
    missing: tuple[str, ...] = ()  # scans that were not segmented


def unlabelled(state: State, parts: Sequence[Part], both: pair.Pair, serving: str) -> Scans:
    """The list of the unlabelled scans that both networks have segmented; empty where there are none.

    Args:
        parts: whose held-out scans teach how good a segmentation is likely to be.
        both: their scores with both bundles.
        serving: the bundle whose segmentation is handed over.
    """
    held = _held_out(state, parts, both, serving)
    later = _later(state, serving)
    there = {scan.name for scan in later}
    missing = (
        tuple(scan.name for scan in state.trainings.unlabelled if scan.name not in there)
        if _segmented_all(state)
        else ()
    )
    if not later:
        return Scans(missing=missing)
    found = quality.predict(held, later)
    marks = _unlike(state)
    of = {scan.name: scan for scan in later}
    order = [
        Later(name, found.predicted.get(name, math.nan) if found.useful else math.nan, of[name].agreement, of[name].confidence,
              (*(("nothing found",) if name in found.nothing_found else ()), *((BEYOND,) if name in found.beyond else ()),
               *marks.get(name, ())))
        for name in found.first
    ]  # fmt: skip
    predicted = (
        [Column("predicted Dice", lambda scan: number(scan.predicted, 2), ascending=True)] if found.useful else []
    )
    columns = [
        texts("scan", attrgetter("name")),
        *predicted,
        Column("the networks agree", lambda scan: number(scan.agreement, 2)),
        Column("confidence", lambda scan: number(scan.confidence, 2)),
        texts("unlike the labelled scans", lambda scan: Cell("; ".join(scan.marks), bad=bool(scan.marks))),
    ]
    table = Table(f"{plural(len(order), 'unlabelled scan')}, the one to look at first on top; a click on a head sorts.", columns,
                  order, sortable=True)  # fmt: skip
    return Scans(order, table, found, sum(bool(marks.get(name)) for name in of), missing)


def _features(state: State, runs: tuple[str, str], name: str, serving: int) -> tuple[float, float]:
    """Agreement of the two networks on a scan, and the confidence of that which serves."""
    folders = [state.runs / run / MAPS for run in runs]
    files = [map_of(folder, name) for folder in folders]
    values = state.task["label_values"]
    maps = [read_map(file, values) for file in files if file]
    sure = json.loads((folders[serving] / CONFIDENCE).read_text(encoding="utf-8")).get(name)
    return quality.agreement(maps, len(values)), math.nan if sure is None else float(sure)


def _segmented_all(state: State) -> bool:
    """Whether both networks have been through the unlabelled scans."""
    names = [final_name(bundle) for bundle in (state.settings.baseline, state.settings.method)]
    return all((state.runs / name / MAPS / CONFIDENCE).is_file() and name not in state.stale for name in names)


def _mapped(state: State, runs: tuple[str, str], name: str) -> bool:
    """Whether both networks have segmented a scan: what one of them lacks, as its training failed, is not "nothing found"."""
    folders = [state.runs / run / MAPS for run in runs if run not in state.stale]
    return len(folders) == len(runs) and all(
        map_of(folder, name) and (folder / CONFIDENCE).is_file() for folder in folders
    )


def _held_out(state: State, parts: Sequence[Part], both: pair.Pair, serving: str) -> list[quality.ScanFeatures]:
    bundles = (state.settings.baseline, state.settings.method)
    rows = both.ours if serving == state.settings.method else both.baseline
    dice = {row["case"]: row for row in rows}
    found = []
    for part in parts:
        runs = (fold_name(part, bundles[0]), fold_name(part, bundles[1]))
        for name in _segmented(state.runs / runs[0] / MAPS):
            row = dice.get(name)
            if row is None or not _mapped(state, runs, name):
                continue
            agreement, sure = _features(state, runs, name, bundles.index(serving))
            found.append(quality.ScanFeatures(name, agreement, sure, row["patient"], row["dice_mean"]))
    return found


def _later(state: State, serving: str) -> list[quality.ScanFeatures]:
    bundles = (state.settings.baseline, state.settings.method)
    runs = (final_name(bundles[0]), final_name(bundles[1]))
    names = [scan.name for scan in state.trainings.unlabelled if _mapped(state, runs, scan.name)]
    return [quality.ScanFeatures(name, *_features(state, runs, name, bundles.index(serving))) for name in names]


def _segmented(folder: Path) -> list[str]:
    return (
        sorted(json.loads((folder / CONFIDENCE).read_text(encoding="utf-8"))) if (folder / CONFIDENCE).is_file() else []
    )


def _unlike(state: State) -> dict[str, list[str]]:
    """What is unlike the labelled scans, by the name of the scan.

    Each modality is compared with that of the labelled scans; of several a text names those that it is of.
    """
    final = json.loads((state.folder / WORK / "final.json").read_text(encoding="utf-8"))
    patients = {_name(state, first_file(entry)): str(entry["patient"]) for entry in final["labelled"]}
    labelled, others = (_facts(state, final[part]) for part in ("labelled", "unlabelled"))
    # a grid that all modalities share is said once
    where: dict[str, dict[str, list[str]]] = {}
    for modality, facts in others.items():
        # a modality that no labelled scan has is not one to be unlike in
        found = unlike(labelled[modality], facts, patients) if labelled.get(modality) else {}
        for name, text in ((name, text) for name, of in found.items() for text in of):
            where.setdefault(name, {}).setdefault(text, []).append(modality)
    several = len(labelled) > 1
    return {
        name: [f"{', '.join(modalities)}: {text}" if several else text for text, modalities in said.items()]
        for name, said in where.items()
    }


def _facts(state: State, entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Facts]]:
    """What the image files of scans hold, by modality, and by the name of the scan."""
    record = Record(state.folder / RECORD)
    files: dict[str, dict[str, str]] = {}
    for entry in entries:
        for modality, file in image_files(entry).items():
            files.setdefault(modality, {})[_name(state, first_file(entry))] = file
    found = record.facts([file for of in files.values() for file in of.values()])
    return {
        modality: {name: facts for name, file in of.items() if isinstance(facts := found[file], Facts)}
        for modality, of in files.items()
    }


def _name(state: State, file: str) -> str:
    """The scan's name: that of its file, without the channel that nnU-Net writes after it."""
    return state.scan_names.get(file, stem(file))
