"""The promises of custom/cohort/resampling.py: a resampling that makes no sense is told before it is made."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cohort_files import Cohort, logged, lump, noise
from monai.data import MetaTensor
from monai.transforms import Spacing
from saying import raises, says
from scan_files import write_nifti

from custom.cohort import resampling
from custom.cohort.check import Check
from custom.cohort.errors import CohortError
from custom.cohort.facts import Facts
from custom.cohort.record import Record
from custom.cohort.resampling import resampled_shape


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    return Cohort(tmp_path)


@pytest.mark.parametrize("wanted", [(1.5, 1.5, 1.5), (1.5, 1.5, -1), (0.7, 2.0, 3.3), (2.0,), 1.25])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.8, 5.0)])
def test_the_shape_is_that_of_monai(spacing, wanted):
    image = MetaTensor(torch.zeros(1, 20, 17, 9), affine=np.diag([*spacing, 1.0]))
    assert resampled_shape((20, 17, 9), spacing, wanted) == tuple(Spacing(wanted)(image).shape[1:])


def put(cohort: Cohort, spacing: float, unit: int = 0) -> None:
    """p2 with voxels of another size."""
    for name, voxels in (("images/p2.nii.gz", noise("p2")), ("labels/p2.nii.gz", lump())):
        write_nifti(cohort.folder / name, voxels, np.diag([spacing] * 3 + [1]), xyzt_units=unit)


REMEDY = ("Correct the voxel sizes", "unit", "set spacing_mm")
TOO_LARGE = ("larger voxels", "cut", "a machine with more memory")


@pytest.mark.fault("5k", "a volume of 35 mm a voxel, to be resampled to 1.5 mm")
def test_a_volume_that_would_become_more_than_64_times_larger_is_refused(cohort):
    put(cohort, 35)
    (line,) = cohort.faults(spacing_mm=[1.5, 1.5, 1.5])
    says(
        line,
        "Resampling: labelled, p2: p2.nii.gz", "16x16x16 voxels of 35x35x35 mm", "spacing_mm 1.5x1.5x1.5",
        "351x351x351 (0.519 GB", "1.06e+04 times", "more than 64", *REMEDY,
    )  # fmt: skip


def test_64_times_as_many_are_allowed(cohort):
    put(cohort, 4)
    cohort.check(spacing_mm=[1.0, 1.0, 1.0])  # 61 of 16 voxels along each axis: 55 times
    assert len(cohort.faults(spacing_mm=[0.9, 0.9, 0.9])) == 1  # of p2: 68 of 16, 77 times


@pytest.mark.fault("5k", "a volume that does not fit in memory")
def test_a_volume_that_does_not_fit_in_memory_is_refused(cohort, monkeypatch):
    monkeypatch.setattr(resampling, "physical_memory", lambda: 2e5)
    put(cohort, 2)
    (line,) = cohort.faults(spacing_mm=[1.0, 1.0, 1.0])
    says(line, "31x31x31 (0.000357 GB", "more than this machine's 0.0002 GB", *REMEDY)


@pytest.mark.fault("5k", "a volume of which nothing would be left")
def test_a_volume_of_which_one_voxel_would_be_left_is_refused(cohort):
    put(cohort, 35, unit=3)
    (line,) = cohort.faults(spacing_mm=[1.5, 1.5, 1.5])
    says(line, "16x16x16 voxels of 0.035x0.035x0.035 mm", "spacing_mm 1.5x1.5x1.5", "1x1x1", "nothing", *REMEDY)


def test_an_axis_that_is_kept_cannot_grow(cohort):
    put(cohort, 35)
    cohort.check(spacing_mm=[-1, -1, -1])
    cohort.check()


# the way back


@pytest.mark.fault("40", "an evaluation whose results do not fit in memory; a training that fits")
def test_a_result_that_does_not_fit_in_memory_on_the_scans_own_grid_is_refused(cohort, monkeypatch):
    monkeypatch.setattr(resampling, "physical_memory", lambda: 2.4e5)
    task = {"spacing_mm": [4.0] * 3, "classes": ["background", "tumour"]}  # 5 voxels along each axis
    training = {part: cohort.parts[part] for part in ("labelled", "unlabelled", "validation")}
    Check(**{**cohort.task, **task})(training)
    found = (
        "16x16x16 voxels",
        "back to this grid",
        "0.00025 GB for 2 classes",
        "this machine's 0.00024 GB",
        *TOO_LARGE,
    )
    for part, name in (("unlabelled", "p3"), ("test", "p5"), ("validation", "p4")):
        with raises(CohortError, f"Results:\n    {part}, {name}: {name}.nii.gz", *found):
            Check(**{**cohort.task, **task})({part: cohort.parts[part]})
    assert [line.split(":")[1] for line in cohort.faults(**task)] == [" test, p5"]  # a list, and all that is in it
    monkeypatch.setattr(resampling, "physical_memory", lambda: 2.6e5)
    cohort.check(**task)


def test_a_volume_of_a_micro_ct(monkeypatch):
    found = Facts("", "", (1200, 1200, 1000), 1, (0.1,) * 3, (), "int16", 0, 1, (), 0, None)
    assert resampling.unfit(found, 1.5, 11, 24e9) == ""
    text = resampling.unfit_back(found, (80, 80, 68), 1, 10, 24e9)
    says(
        text, "1200x1200x1000 voxels", "back to this grid", "225 GB for 10 classes", "this machine's 24 GB", *TOO_LARGE
    )
    assert resampling.unfit_back(found, (80, 80, 68), 1, 10, 230e9) == ""


@pytest.mark.fault("40", "logits that would fit, beside what bringing them back copies")
def test_what_bringing_a_result_back_takes_is_counted_and_not_one_copy_of_the_logits():
    found = Facts("", "", (512, 512, 600), 1, (0.8, 0.8, 1.0), (), "int16", 0, 1, (), 0, None)
    assert math.prod(found.shape) * 4 * 14 < 9e9
    assert "takes 40.4 GB for 14 classes" in resampling.unfit_back(found, (281, 281, 600), 1, 14, 24e9)


def test_a_training_warns_of_test_scans_that_no_evaluation_could_score(cohort, monkeypatch, caplog):
    record = Record()
    task = {**cohort.task, "spacing_mm": [4.0] * 3, "record": record}
    Check(**task)({"test": cohort.parts["test"]})  # by an earlier check
    monkeypatch.setattr(resampling, "physical_memory", lambda: 2.4e5)
    caplog.clear()
    training = {part: cohort.parts[part] for part in ("labelled", "unlabelled", "validation")}
    Check(**task, unread={"test": cohort.parts["test"]})(training)
    (line,) = logged(caplog)
    says(
        line,
        "WARNING test, p5: no evaluation", "p5.nii.gz", "16x16x16 voxels", "back to this grid", "0.00025 GB for 2 classes",
        "this machine's 0.00024 GB", *TOO_LARGE,
    )  # fmt: skip
