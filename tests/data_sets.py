"""Tiny data sets as others keep them: nnU-Net's raw form, and that of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hospital import fill

NNUNET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}, "file_ending": ".nii.gz",
          "numTraining": 2}  # fmt: skip
MSD = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "anterior", "2": "posterior"},
       "training": [{"image": "./imagesTr/h_1.nii.gz", "label": "./labelsTr/h_1.nii.gz"}],
       "test": ["./imagesTs/h_2.nii.gz"]}  # fmt: skip


def nnunet(folder: Path, **said: Any) -> Path:
    """Cases a (labelled) and b (not) for training, c for testing; a channel each that is named."""
    content = {**NNUNET, **said}
    channels = range(len(content["channel_names"]))
    ending = content["file_ending"]
    fill(folder / "imagesTr", *[f"{case}_{k:04d}{ending}" for case in "ab" for k in channels], "._a_0000.nii.gz")
    fill(folder / "labelsTr", f"a{ending}")
    fill(folder / "imagesTs", *[f"c_{k:04d}{ending}" for k in channels])
    return describe(folder, content)


def msd(folder: Path, **said: Any) -> Path:
    fill(folder / "imagesTr", "h_1.nii.gz", "._h_1.nii.gz")
    fill(folder / "labelsTr", "h_1.nii.gz")
    fill(folder / "imagesTs", "h_2.nii.gz")
    return describe(folder, {**MSD, **said})


def describe(folder: Path, content: Any) -> Path:
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Each file of a folder, with its bytes and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }
