"""What an annotator would see: the drafts that the first and the last version of a loop make of one held-out scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from annotate.bundle import Served
from annotate.versions import Versions
from custom.cohort.reader import ScanReader
from custom.report.plots import case_pictures

from .cohort import Entry, load


def draw(loop: Path, png: Path) -> str:
    """Draw the held-out scan whose Dice by the last version is the median; returns its file's name.

    Args:
        loop: a folder that ``run`` made.
        png: the picture.
    """
    (root,) = (loop / "app/model").iterdir()
    served, versions = Served(root), Versions(root)
    names = [versions.names()[0], versions.names()[-1]]
    weights = {name: root / "versions" / name / "model.pt" for name in names}
    cases = load(loop.parent / "cohort.json").held_out
    scores = [served.dice([dict(case)], weights[names[-1]]) for case in cases]
    case = cases[int(np.argsort(scores)[len(scores) // 2])]
    drafts = {
        f"after {_labels(versions, name)}": served.predict(case["image"], weights[name])[0].numpy() for name in names
    }
    image, spacing = _read(case)
    label, _ = _read({"image": case["label"]})
    case_pictures(image, label, drafts, png, "Draft of a scan that nobody labelled", served.classes[1:], spacing)
    return Path(case["image"]).name


def _labels(versions: Versions, name: str) -> str:
    record = versions.record(name)
    labels = len(record["labelled"]) + len(record.get("validation", []))
    return f"{labels} label{'s' if labels > 1 else ''}"


def _read(case: Entry) -> tuple[np.ndarray, Sequence[float]]:
    reader = ScanReader()
    voxels, meta = reader.get_data(reader.read(case["image"]))
    return np.squeeze(np.asarray(voxels)), np.linalg.norm(np.asarray(meta["affine"])[:3, :3], axis=0).tolist()
