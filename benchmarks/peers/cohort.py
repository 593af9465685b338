"""The scans of a comparison: one data list for all methods, nnU-Net's copies of it, and its answers back on the files' grids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import yaml
from monai.transforms import LoadImage
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from custom.cohort import data_list
from custom.cohort.check import OF_A_TASK, Check
from custom.cohort.label_formats import as_classes
from custom.cohort.names import case_names
from custom.cohort.reader import ScanReader
from custom.cohort.split import FoundScan
from custom.errors import UserError
from custom.files import write_text
from custom.inference.writer import GridWriter
from custom.study.label_maps import link_folder

from ..compare.runs import ROOT

DATASET = "Dataset001_peers"
JUDGED = ("labelled", "test")  # the parts of which every method needs each scan whole
DONE = "dataset.json"  # nnU-Net's own, written last


class PeersError(UserError, RuntimeError):
    """A comparison cannot be made as it was asked for."""


@dataclass(frozen=True)
class Cohort:
    """What all methods get.

    Args:
        task_file, task: its path, and what it says.
        parts: entries of the data list, paths absolute.
        own_list: data list of our trainings, which do not see the test part.
    """

    task_file: Path
    task: Mapping[str, Any]
    parts: Mapping[str, Sequence[Mapping[str, Any]]]
    own_list: Path

    @property
    def flat(self) -> bool:
        """Whether the network is 2D, on pictures or slice by slice."""
        return self.task["dimensions"] == 2

    def cases(self, part: str) -> list[dict[str, Any]]:
        """``image`` (a path, or one a channel), ``reference``, ``patient``, ``case`` and ``attributes`` of each scan."""
        return data_list.references(self.parts[part], self.task["channels"])


def read(task: str, lists: Path, folder: Path) -> Cohort:
    """Read and judge the scans of ``acdc:3`` (``LISTS/acdc_3.json``), or of a phantom by its name, drawn in ``lists``.

    The validation part is left out: no method here chooses by it.

    Args:
        folder: of the comparison.

    Raises:
        PeersError: no such task; a part without scans; a scan that lacks a channel, which nnU-Net does not take.
        CohortError: faults of the list or of its files, all in one report.
    """
    name, _, labels = task.partition(":")
    file = ROOT / f"custom/tasks/{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise PeersError(f"there is no task {name}. There are {known}")
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    drawn = f"phantom:{name.removeprefix('phantom_')}"
    where = lists / f"{name}_{labels}.json" if labels or not name.startswith("phantom_") else drawn
    parts = {**data_list.read(where, lists), "validation": []}
    for part in JUDGED:
        if not parts[part]:
            raise PeersError(
                f"{where} has no scans under '{part}': nothing to {'train on' if part == 'labelled' else 'score'}"
            )
    for part in JUDGED:
        for entry, case in zip(parts[part], case_names(parts[part], found["channels"]), strict=True):
            there = entry.get("image")
            if lacks := [c for c in found["channels"] if isinstance(there, Mapping) and c not in there]:
                raise PeersError(
                    f"{where}: {part}, {case} lacks {', '.join(lacks)}, and nnU-Net takes no scan without one of its channels "
                    f"({', '.join(found['channels'])}). Add the file to the entry, or remove the entry"
                )
    cohort = Cohort(file, found, parts, folder / "list.json")
    used = {key: found[key] for key in OF_A_TASK if key in found}
    Check(**used, needs=JUDGED, record=data_list.record_path(cohort.own_list))(parts)
    write_text(cohort.own_list, json.dumps({**parts, "test": []}, indent=1) + "\n")
    return cohort


def links(cohort: Cohort, folder: Path) -> Path:
    """A folder of links to the test images, named by their cases, as our inference takes it."""
    scans = []
    for entry, case in zip(cohort.parts["test"], cohort.cases("test"), strict=True):
        image, channels = entry["image"], cohort.task["channels"]
        by_channel = {c: Path(image[c]) for c in channels} if isinstance(image, Mapping) else {}
        alone = Path(image) if isinstance(image, str) else by_channel[channels[0]]
        scans.append(FoundScan(case["case"], by_channel if len(by_channel) > 1 else alone, None, True))
    found = link_folder(folder, scans)
    assert found is not None
    return found


def load(path: Any, fill_nonfinite: bool = False, label: bool = False) -> Any:
    """A scan as our bundles read it: a ``MetaTensor`` ``(C, *spatial)`` in the order of the file's voxels."""
    reader = ScanReader(fill_nonfinite=fill_nonfinite, whole=label)
    return LoadImage(reader=reader, ensure_channel_first=True, image_only=True)(path)


def write_raw(cohort: Cohort, raw: Path) -> Path:
    """Write labelled and test scans as nnU-Net reads them, and return the folder of the data set.

    Voxels are turned as the task's ``orientation`` says, sizes of voxels are those that our reader finds, origins are 0. Labels
    are the indices of the task's ``classes``. Files are numbered: nnU-Net reads names by their ends.
    """
    folder, task = raw / DATASET, cohort.task
    if (folder / DONE).is_file():
        return folder
    for place in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for part, images in (("labelled", "imagesTr"), ("test", "imagesTs")):
        for number, case in enumerate(cohort.cases(part)):
            image = load(case["image"], task.get("fill_nonfinite", False))
            for channel, voxels in enumerate(np.asarray(image)):
                _save(
                    folder / images / f"{part}_{number:04d}_{channel:04d}.nii.gz",
                    voxels.astype(np.float32),
                    image,
                    task,
                )
            if part == "labelled":
                label = load(case["reference"], label=True)
                classes = as_classes(np.asarray(label)[0], task["label_values"])
                _save(folder / "labelsTr" / f"{part}_{number:04d}.nii.gz", classes, image, task)
    about = {
        "channel_names": {str(k): channel for k, channel in enumerate(task["channels"])},
        "labels": {"background": 0, **{name: k for k, name in enumerate(task["classes"]) if k}},
        "numTraining": len(cohort.parts["labelled"]),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    write_text(folder / DONE, json.dumps(about, indent=1) + "\n")
    return folder


def bring_back(cohort: Cohort, predicted: Path, maps: Path) -> None:
    """Write nnU-Net's predictions of the test scans as our inference writes label maps: on the grids of the images' files.

    Raises:
        PeersError: a prediction is missing.
        GridError: one has another number of voxels than its image.
    """
    maps.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(cohort.cases("test")):
        file = predicted / f"test_{number:04d}.nii.gz"
        if not file.is_file():
            raise PeersError(f"nnU-Net left no prediction of {case['case']}: {file} is not there")
        image = load(case["image"], cohort.task.get("fill_nonfinite", False))
        there = _turn(image, cohort.task)
        classes = np.asarray(nibabel.load(file).dataobj)  # type: ignore[attr-defined]
        if there is not None:
            classes = apply_orientation(classes, _inverse(there))
        writer = GridWriter(cohort.task["label_values"])
        writer.set_data_array(np.asarray(cohort.task["label_values"])[classes.astype(int)], channel_dim=None)
        writer.set_metadata(image.meta)
        writer.write(maps / f"{case['case']}_pred{'.nii.gz' if classes.ndim == 3 else '.png'}")


def _save(path: Path, voxels: NDArray[Any], image: Any, task: Mapping[str, Any]) -> None:
    sizes, there = np.asarray(image.pixdim)[: voxels.ndim], _turn(image, task)
    if there is not None:
        voxels, sizes = apply_orientation(voxels, there), sizes[_inverse(there)[:, 0].astype(int)]
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*sizes, *[1.0] * (4 - voxels.ndim)])), path)  # type: ignore[attr-defined]


def _turn(image: Any, task: Mapping[str, Any]) -> NDArray[Any] | None:
    """The turn from the order of the file's voxels to the task's; None for pictures, and where the task leaves it."""
    if image.ndim != 4 or not task.get("orientation"):
        return None
    return ornt_transform(io_orientation(np.asarray(image.affine)), axcodes2ornt(task["orientation"]))


def _inverse(there: NDArray[Any]) -> NDArray[Any]:
    return ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), there)
