"""A scan that was overwritten is never taken for the one that was there before."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import ROOT, TINY

from custom.cohort.facts import Facts
from custom.cohort.record import Record


def overwrite(path: Path) -> None:
    """The voxels in reverse, in a file of the same size, and its time of writing put back, as ``rsync -t`` or ``cp -p`` would."""
    before = path.stat()
    image = nibabel.load(path, mmap=False)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine, image.header), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def facts(record: Path, path: Path) -> Facts:
    """The facts that a new process would get."""
    found = Record(record).facts([str(path)])[str(path)]
    assert isinstance(found, Facts)
    return found


@pytest.mark.fault("20", "overwritten, size and time of writing as before")
def test_a_scan_overwritten_with_size_and_time_kept_is_read_anew(tmp_path):
    path, record = tmp_path / "a.nii", tmp_path / "list.checked.json"
    nibabel.save(nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), path)
    before, size = facts(record, path), path.stat().st_size
    assert Record(record).known(str(path)) == before
    overwrite(path)
    assert path.stat().st_size == size
    assert Record(record).known(str(path)) is None
    after = facts(record, path)
    assert (before.low, before.high) == (after.low, after.high) == (0, 23)
    assert before.sha256 != after.sha256
    assert before.voxels != after.voxels


@pytest.mark.fault("20", "overwritten between a run and its resume")
def test_a_resume_after_a_scan_was_overwritten_is_refused(tmp_path, phantoms, run_bundle, finished):
    finished("mean_teacher", tmp_path / "out")
    for part in ("labelled", "unlabelled", "validation"):
        data = tmp_path / part / "phantom_2d"
        shutil.copytree(phantoms / "phantom_2d", data)
        entry = json.loads((data / "list.json").read_text())[part][0]
        overwrite(data / entry["image"])
        with pytest.raises(RuntimeError) as error:
            run_bundle(ROOT / "bundles/mean_teacher", **TINY, dataset_dir=str(data.parent), resume=True)
        assert f"data: the {part} scans are not those it was trained on" in str(error.value.__cause__)
