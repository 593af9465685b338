"""Threads that read scans import nothing: two that import at once may wait for each other, or see half a module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scan_files import affine_ras, numbered, picture, write_itk, write_nifti, write_series

VOXELS = numbered(5, 4, 3)
LABEL = (VOXELS % 2).astype(np.uint8)
WRITE: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "nii.gz": lambda path, voxels: write_nifti(path.with_name(f"{path.name}.nii.gz"), voxels, affine_ras()),
    "nrrd": lambda path, voxels: write_itk(path.with_name(f"{path.name}.nrrd"), voxels),
    "DICOM": write_series,
    "jpg": lambda path, voxels: picture(path.with_name(f"{path.name}.jpg")),
    "png": lambda path, voxels: picture(path.with_name(f"{path.name}.png"), np.ones((20, 30), np.uint8)),
}
# Says at the end what threads imported.
WATCH = """
import atexit, sys, threading
found = set()
class Watch:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is not threading.main_thread():
            found.add(name)
sys.meta_path.insert(0, Watch())
atexit.register(lambda: print("imported by threads:", *sorted(found)))
"""
CHECK = "from custom.cohort.__main__ import main; main(['check', 'l.json', '--no-record'])"
BANK = """
import json
from monai.transforms import LoadImaged
from custom.cohort.reader import ScanReader
from custom.stream.bank import Bank
transform = LoadImaged(["image", "label"], reader=ScanReader, ensure_channel_first=True)
bank = Bank(json.load(open("l.json"))["labelled"], transform, workers=2)
bank.load()
print("No faults in", len(bank), "scans")
"""


@pytest.mark.fault("8b", "images of one format, labels of another: read by threads of a fresh process")
@pytest.mark.parametrize(("formats", "code"), [
    pytest.param(("DICOM", "nii.gz"), CHECK, id="check DICOM and nii.gz", marks=pytest.mark.slow),
    pytest.param(("DICOM", "nrrd"), BANK, id="train on DICOM and nrrd"),
    pytest.param(("nii.gz", "nrrd"), BANK, id="train on nii.gz and nrrd", marks=pytest.mark.slow),
    pytest.param(("nrrd", "nii.gz"), CHECK, id="check nrrd and nii.gz", marks=pytest.mark.slow),
    pytest.param(("jpg", "png"), CHECK, id="check jpg and png", marks=pytest.mark.slow),
])  # fmt: skip
def test_reading_threads_import_nothing(tmp_path, formats, code):
    entries = []
    for number in range(2):
        files = [WRITE[kind](tmp_path / part / f"p{number}", voxels)
                 for kind, part, voxels in zip(formats, ("images", "labels"), (VOXELS, LABEL), strict=True)
                 if (tmp_path / part).mkdir(exist_ok=True) is None]  # fmt: skip
        entries.append(dict(zip(("image", "label"), map(str, files), strict=True)))
    (tmp_path / "l.json").write_text(json.dumps({"labelled": entries}))
    done = subprocess.run([sys.executable, "-c", WATCH + code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=600)  # fmt: skip
    assert "No faults in 2 scans" in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "imported by threads:"
