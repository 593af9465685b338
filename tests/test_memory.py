"""The promises of custom/inference/memory.py: within a bound at once, slab by slab, or not at all, and which is said before."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import Compose, LoadImaged, Resized
from saying import raises
from test_in_pieces import RANGE

from custom.cohort.case import Case, can_be_streamed
from custom.cohort.check import Check
from custom.cohort.reader import ScanReader
from custom.cohort.resampling import Size
from custom.errors import UserError
from custom.inference import memory
from custom.inference.memory import BoundedInferer, Memory, TooLarge, need
from custom.inference.slabs import LogitSlabs

CLASSES = 9
WINDOWS = SlidingWindowInferer((32, 32, 32), sw_batch_size=2, overlap=0.25, mode="gaussian")
LARGE, SMALL = (
    Size("/images/large.nii.gz", 1, 10**9, (1000, 1000, 1000)),
    Size("/images/small.nii.gz", 1, 10**6, (100,) * 3),
)


@pytest.fixture(autouse=True)
def _nothing_else_in_memory(monkeypatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
    monkeypatch.setattr(memory, "return_freed_memory", lambda: None)
    monkeypatch.setattr(memory._Peak, "bytes", lambda _: 0)


def plan(memory_gb: float | None, *sizes: Size, inferer: Any = WINDOWS) -> Memory:
    return Memory(memory_gb, sizes, list(range(CLASSES)), 1, inferer, torch.nn.Identity())


def test_the_logits_of_the_whole_are_most_of_what_a_scan_takes():
    found = need(LARGE, CLASSES, (32, 32, 32))
    assert found.whole > 10**9 * 2 * 4 * CLASSES  # twice: before and after they are turned back
    assert found.slabs < 10**9 * (
        4 + 3 + 4 * (2 * CLASSES + 1) * 0.032 + 0.1
    )  # the image, the result, a slab of 32 planes
    assert found.reading < 20 * 10**9


def image(size: Size) -> MetaTensor:
    return MetaTensor(torch.zeros(1, 1, 1, 1), meta={"filename_or_obj": size.file})


def test_a_scan_is_segmented_at_once_where_that_fits_and_else_in_slabs():
    for memory_gb, slabs in ((200, False), (40, True)):
        found = plan(memory_gb, LARGE, SMALL)
        assert [found.in_slabs(image(size)) for size in (LARGE, SMALL)] == [slabs, False]


def test_without_a_bound_it_is_the_machines(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 40e9)
    assert plan(None, LARGE).in_slabs(image(LARGE))


def test_without_a_bound_what_is_free_decides_on_slabs_and_the_machine_on_refusal(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 200e9)
    monkeypatch.setattr(memory, "free_memory", lambda: 4e9)
    found = plan(None, LARGE, SMALL)
    assert found.in_slabs(image(LARGE))
    assert not found.in_slabs(image(SMALL))
    monkeypatch.setattr(memory, "free_memory", lambda: 190e9)
    assert not plan(None, LARGE).in_slabs(image(LARGE))


def test_the_next_scan_is_read_meanwhile_where_both_fit():
    assert plan(200, LARGE, LARGE, SMALL).ahead == [True, True, True]
    assert plan(30, LARGE, LARGE, SMALL).ahead == [False, True, True]


@pytest.mark.fault("46", "a bound that nothing fits")
def test_what_fits_in_no_way_is_told_at_once_and_plainly():
    found = ("1 scan of 2", "8 GB that memory_gb allows", "slab by slab", "large.nii.gz: 18.7 GB", "18.7 GB to read")
    with raises(UserError, *found, "memory_gb 18.8", "inferer::roi_size", "larger voxels", "NIfTI", "in pieces"):
        plan(8, SMALL, LARGE)


def test_an_inferer_without_windows_needs_the_whole():
    with pytest.raises(UserError, match="even slab by slab"):
        plan(40, LARGE, inferer=SimpleInferer())
    assert not plan(200, LARGE, inferer=SimpleInferer()).in_slabs(image(LARGE))


@pytest.mark.parametrize("wrong", [0, -1, math.nan])
def test_a_bound_is_above_0(wrong):
    with pytest.raises(UserError, match=r"^memory_gb is .*: expected GB above 0, or null"):
        plan(wrong, SMALL)


@pytest.mark.fault("46", "preprocessing that cannot be undone slab by slab")
def test_preprocessing_that_cannot_be_undone_in_slabs_is_told():
    resized = Compose([Resized("image", (4, 4, 4), mode="area")])({"image": MetaTensor(torch.zeros(1, 9, 9, 9))})[
        "image"
    ]
    resized.meta["filename_or_obj"] = LARGE.file
    with raises(UserError, "large.nii.gz does not fit in 40 GB of memory", "preprocessing"):
        plan(40, LARGE).in_slabs(resized)


def test_the_inferer_gives_slabs_or_what_the_tasks_own_gives():
    net = torch.nn.Conv3d(1, CLASSES, 3, padding=1)
    batch = image(LARGE)[None]
    with torch.no_grad():
        assert torch.equal(BoundedInferer(WINDOWS, plan(200, LARGE))(batch, net), WINDOWS(batch, net))
        [slabs] = BoundedInferer(WINDOWS, plan(40, LARGE))(batch, net)
    assert isinstance(slabs, LogitSlabs)


def test_sizes_are_those_of_the_files_that_were_read(good):
    task = {**good.task, "spacing_mm": [4.0] * 3, "in_slabs": True}
    check, entries = Check(**task), good.parts["unlabelled"]
    assert check.sizes(entries) == []
    check({"unlabelled": entries})
    assert {(size.channels, size.own, size.seen) for size in check.sizes(entries)} == {(1, 16**3, (5, 5, 5))}
    assert [Path(size.file).name for size in check.sizes(entries)] == [Path(str(e["image"])).name for e in entries]


def test_results_need_not_fit_where_they_are_made_in_slabs(good, monkeypatch):
    from custom.cohort import resampling

    monkeypatch.setattr(resampling, "physical_memory", lambda: 3e4)
    task = {**good.task, "spacing_mm": [4.0] * 3, "classes": ["background", "tumour"]}
    with pytest.raises(UserError, match="bringing its result back to this grid takes"):
        Check(**task)({"unlabelled": good.parts["unlabelled"]})
    Check(**task, in_slabs=True)({"unlabelled": good.parts["unlabelled"]})


PEAK = """
import resource, subprocess, sys  # a small process: a child's peak is at least that of the process that started it
print(subprocess.run(sys.argv[1:]).returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.fault("46", "a bound far below what the whole takes, the peak of the process measured")
def test_the_process_stays_below_the_bound_and_its_label_map_is_that_of_the_whole(run_bundle, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests/oddities"))
    from oracle import Halves

    length, bound_gb, base_gb = 144, 0.8, 0.5  # the base: libraries, before anything is read
    (tmp_path / "images").mkdir()
    voxels = (np.indices((length,) * 3).sum(0) % 97 * 10).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.25, 1.25, 1.25, 1])), tmp_path / "images/p1.nii.gz")
    torch.save(Halves(3).state_dict(), tmp_path / "oracle.pt")
    settings = {
        "dataset_dir": str(tmp_path / "images"), "model_file": str(tmp_path / "oracle.pt"), "dimensions": 3, "slices": False,
        "network_def": {"_target_": "oracle.Halves", "dimensions": 3}, "spacing_mm": [1.5, 1.5, 1.5],
        "classes": [f"c{k}" for k in range(CLASSES)], "label_values": list(range(CLASSES)),
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32] * 3, "sw_batch_size": 2, "mode": "gaussian"},
    }  # fmt: skip
    (tmp_path / "overrides.json").write_text(json.dumps(settings))
    files = f"['configs/inference.yaml','{tmp_path}/overrides.json']"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, "--output_dir", str(tmp_path / "slabs"),
               "--memory_gb", str(bound_gb)]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": f"{ROOT}/tests/oddities:{ROOT}/tests", "OMP_NUM_THREADS": "1"}
    bundle = ROOT / "bundles/supervised"
    ended = subprocess.run(
        [sys.executable, "-S", "-c", PEAK, *command], cwd=bundle, env=env, capture_output=True, text=True
    )
    code, peak = map(int, ended.stdout.split()[-2:])
    assert code == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    at_once = need(Size("", 1, length**3, (120,) * 3), CLASSES, (32,) * 3).whole
    assert peak < bound_gb * 1e9 < base_gb * 1e9 + at_once
    whole = run_bundle(bundle, "run", "configs/inference.yaml", **settings, output_dir=str(tmp_path / "whole"))
    found, expected = (
        np.asarray(nib.load(folder / "p1_pred.nii.gz").dataobj) for folder in (tmp_path / "slabs", whole)
    )
    assert (found != expected).mean() < 1e-4  # the logits here are 0 and 1: half way between two voxels are ties
    assert len(np.unique(expected)) > 2


# read in pieces

NIFTI = replace(LARGE, streamed=True)
RESAMPLED = Size("/images/new_grid.nii", 1, 1024**3, (853,) * 3, streamed=True)
TASK = Compose([LoadImaged("image", reader=ScanReader, ensure_channel_first=True), RANGE])


def in_pieces_of(
    memory_gb: float | None, *sizes: Size, classes: int = 2, transform: Any = TASK, inferer: Any = WINDOWS
) -> Memory:
    return Memory(memory_gb, sizes, list(range(classes)), 1, inferer, torch.nn.Identity(), transform)


def test_what_does_not_fit_as_a_whole_is_read_in_pieces_where_that_can_be():
    for gb, slabs, pieces in ((200, False, False), (25, True, False), (6, True, True)):
        found = in_pieces_of(gb, NIFTI, SMALL)
        assert (found.in_slabs(image(NIFTI)), found.in_pieces(NIFTI.file)) == (slabs, pieces)
        assert not found.in_pieces(SMALL.file)
    in_pieces_of(6, RESAMPLED)
    resized = Compose([*TASK.transforms, Resized("image", (4, 4, 4), mode="area")])
    for size, options in ((LARGE, {}), (NIFTI, {"transform": resized}), (NIFTI, {"transform": None}),
                          (NIFTI, {"inferer": SimpleInferer()})):  # fmt: skip
        with pytest.raises(TooLarge):
            in_pieces_of(6, size, **options)


def test_what_is_free_decides_on_pieces_without_a_bound(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 24e9)
    monkeypatch.setattr(memory, "free_memory", lambda: 8e9)
    assert in_pieces_of(None, NIFTI).in_pieces(NIFTI.file)


def test_no_scan_is_read_in_pieces_while_another_is_segmented():
    assert in_pieces_of(6, SMALL, NIFTI, NIFTI, SMALL).ahead == [False, False, True, True]
    found = in_pieces_of(
        24, SMALL, NIFTI, classes=60
    )  # whose reading would fit, but not a slab of its logits beside the image
    assert found.in_pieces(NIFTI.file)
    assert found.ahead == [False, True]


def test_a_volume_that_does_not_even_fit_in_pieces_is_told():
    found = (
        "1 scan of 2",
        "2 GB that memory_gb allows",
        "slab by slab",
        "large.nii.gz: 3.44 GB",
        "for a slab of logits",
    )
    with raises(TooLarge, *found, "memory_gb 3.5", "inferer::roi_size", "larger voxels") as error:
        in_pieces_of(2, SMALL, NIFTI)
    assert "in pieces" not in str(error.value), "it is NIfTI"


def test_sizes_say_which_scans_are_volumes_of_nifti(good, tmp_path):
    check = Check(**good.task, in_slabs=True)
    entries = good.parts["unlabelled"]
    check({"unlabelled": entries})
    assert {size.streamed for size in check.sizes(entries)} == {True}
    assert not can_be_streamed(Case("test", "a", "a", {"": "a.nrrd"}, ""), [])


def test_pages_are_handed_back_with_each_slab(monkeypatch):
    released = []
    monkeypatch.setattr(memory, "release_pages", lambda: released.append(True))
    small = torch.zeros(1, 1, 64, 32, 32)
    batch = MetaTensor(small, meta={"filename_or_obj": NIFTI.file}, applied_operations=[])
    batch.is_batch = True
    batch.meta, batch.applied_operations = {"filename_or_obj": [NIFTI.file]}, [[]]
    with torch.no_grad():
        [slabs] = BoundedInferer(WINDOWS, in_pieces_of(6, NIFTI))(batch, torch.nn.Conv3d(1, 2, 1))
        assert len(released) == 0
        assert len(list(slabs.slabs())) == len(released) > 1
