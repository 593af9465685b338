"""`memory_gb` bounds the check of scans too: sizes are judged by headers, and what does not fit is refused before it is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT
from saying import raises, says
from scan_files import affine_ras, numbered, picture, write_itk, write_nifti, write_series
from test_memory import PEAK

from custom.cohort import record as record_module
from custom.cohort.check import Check
from custom.cohort.errors import CohortError
from custom.cohort.facts import read
from custom.cohort.formats import held_bytes, nifti, streamed
from custom.cohort.record import Record, TooLarge
from custom.memory import BoundError

VOXELS = numbered(30, 20, 10)
WRITE = {
    "nrrd": lambda folder: write_itk(folder / "a.nrrd", VOXELS),
    "packed nrrd": lambda folder: write_itk(folder / "a.nrrd", VOXELS * 0, compression=True),
    "mha": lambda folder: write_itk(folder / "a.mha", VOXELS),
    "series": lambda folder: write_series(folder / "a", VOXELS),
    "picture": lambda folder: picture(folder / "a.png", np.zeros((200, 100), np.uint8)),
    "nifti": lambda folder: write_nifti(folder / "a.nii.gz", VOXELS),
}


@pytest.fixture(autouse=True)
def _nothing_else_in_memory(monkeypatch):
    monkeypatch.setattr(record_module, "resident_bytes", lambda: 0)
    monkeypatch.setattr(record_module, "return_freed_memory", lambda: None)


@pytest.mark.parametrize("kind", WRITE)
def test_what_does_not_fit_is_refused_before_a_voxel_of_it_is_read(tmp_path, monkeypatch, kind):
    file, opened = str(WRITE[kind](tmp_path)), []
    monkeypatch.setattr(record_module, "read", lambda path, **more: opened.append(path) or read(path, **more))
    needed = held_bytes(Path(file))
    assert needed >= (20_000 if kind == "picture" else 4 * VOXELS.nbytes if kind != "nifti" else VOXELS.nbytes)
    memory_gb = 0.9 * needed / 1e9
    found = Record().facts([file], memory_gb=memory_gb)[file]
    assert isinstance(found, TooLarge)
    assert opened == []
    name, left = Path(file).name, f"{memory_gb:.3g} GB that are left of memory_gb {memory_gb:g}"
    says(
        str(found),
        f"{name} takes",
        "GB while it is read, expected at most the",
        left,
        "Give memory_gb 0.1 on a machine",
    )
    assert Record().facts([file], memory_gb=1.1 * needed / 1e9)[file] == Record().facts([file])[file]
    assert opened == [file, file]


@pytest.mark.fault("46", "a scan that cannot be checked within the bound")
def test_the_report_names_the_case_what_it_takes_and_what_to_do(good, monkeypatch):
    images = Path(str(good.parts["unlabelled"][0]["image"])).parent
    large = write_itk(images / "large.nrrd", numbered(100, 100, 100, dtype=np.int32))
    monkeypatch.setattr(record_module, "HELD", 1e6)
    entries = [*good.parts["unlabelled"], {"image": str(large)}, {"image": str(images / "gone.nii.gz")}]
    with raises(CohortError, "The scans cannot be used", "Memory:", "large", "large.nrrd takes 0.016 GB while it is read",
                "expected at most the 0.01 GB that are left of memory_gb 0.01", "Give memory_gb 0.1", "store it as NIfTI",
                "read in pieces") as error:  # fmt: skip
        Check(**good.task, memory_gb=0.01)({"unlabelled": entries})
    assert "copy" not in str(error.value).split("Memory:")[1].split("\n")[1]
    Check(**good.task, memory_gb=0.017).report({"unlabelled": entries})


@pytest.mark.parametrize("wrong", [0, -1, float("nan")])
def test_a_bound_is_above_0(good, wrong):
    with raises(BoundError, "memory_gb is", "expected GB above 0, or null"):
        Check(**good.task, memory_gb=wrong)({"unlabelled": good.parts["unlabelled"]})


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", ["int16", "scaled", "channels", "float64"])
def test_a_small_volume_that_does_not_fit_is_read_in_pieces_and_its_facts_are_the_same(
    tmp_path, monkeypatch, name, kind
):
    """The digest too: what a study knows of an image does not depend on the bound that it was checked within."""
    shape = (9, 8, 70, 2) if kind == "channels" else (9, 8, 70)
    voxels = np.random.default_rng(0).integers(0, 200, shape).astype(np.float64 if kind == "float64" else np.int16)
    image = nib.Nifti1Image(voxels, affine_ras())
    image.header.set_slope_inter(*((0.37, -3) if kind == "scaled" else (1, 0)))
    nib.save(image, tmp_path / name)
    file = str(tmp_path / name)
    whole = Record().facts([file])[file]
    monkeypatch.setattr(streamed, "AT_ONCE", 3 * 9 * 8)
    monkeypatch.setattr(streamed, "ROWS_BYTES", 2 * 8 * 70 * 8)
    for module in (nifti, record_module, sys.modules["custom.cohort.formats"]):
        monkeypatch.setattr(module, "HELD", 1000)
    opened = []
    monkeypatch.setattr(record_module, "read", lambda path, **more: opened.append(more["room"]) or read(path, **more))
    assert Record().facts([file], memory_gb=5e-6)[file] == whole
    assert opened == [5000]
    found = Record().facts([file], memory_gb=5e-7)[file]
    assert isinstance(found, TooLarge)
    assert "NIfTI" not in str(found), "it is"
    label = Record().facts([file], labels=[file], memory_gb=5e-6)[file]
    assert isinstance(label, TooLarge), "a label is read as a whole"


def inference(folder: Path, memory_gb: float, **more: object) -> tuple[int, int, str]:
    """Exit status, peak in bytes and text of an inference of ``folder/images`` by a single convolution."""
    torch.save(torch.nn.Conv3d(1, 2, 1).state_dict(), folder / "model.pt")
    settings = {
        "dataset_dir": str(folder / "images"), "model_file": str(folder / "model.pt"), "dimensions": 3, "slices": False,
        "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
        "spacing_mm": None, "classes": ["background", "a"], "label_values": [0, 1],
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [128] * 3, "sw_batch_size": 1, "overlap": 0.0}, **more,
    }  # fmt: skip
    (folder / "overrides.json").write_text(json.dumps(settings))
    files = f"['configs/inference.yaml','{folder}/overrides.json']"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, "--output_dir", str(folder / "out"),
               "--memory_gb", str(memory_gb)]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-S", "-c", PEAK, *command], cwd=ROOT / "bundles/supervised", env=env,
                           capture_output=True, text=True)  # fmt: skip
    code, peak = map(int, ended.stdout.split()[-2:])
    return code, peak, ended.stdout + ended.stderr


@pytest.mark.fault("46", "a scan that cannot be checked within the bound, the peak of the process measured")
@pytest.mark.slow
def test_the_peak_of_a_check_stays_below_the_bound(tmp_path):
    (tmp_path / "images").mkdir()
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 600 500 500\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        "space origin: (0,0,0)\n\n"
    )
    with (tmp_path / "images/large.nrrd").open("wb") as file:
        file.write(header.encode())
        file.truncate(len(header) + 2 * 600 * 500 * 500)
    code, peak, said = inference(tmp_path, 1.0)
    assert code != 0
    says(said, "Memory:", "large.nrrd takes 1.2 GB while it is read", "are left of memory_gb 1", "Give memory_gb")
    assert peak < 1e9
