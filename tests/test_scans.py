"""The promises of custom/cohort/formats: a file that was cut short, changed or has an impossible header is found."""

from __future__ import annotations

import gzip
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage
from saying import says
from scan_files import VOXELS, affine_ras, fault, numbered, picture, write_itk, write_nifti, write_series

from custom.cohort.facts import ScanFault, read


def packed(path: Path) -> Path:
    return write_itk(path, numbered(20, 20, 20), compression=True)


WRITERS = {
    "a.nii.gz": lambda path: write_nifti(path, np.random.default_rng(0).integers(0, 900, (8, 8, 8)).astype(np.int16)),
    "a.nii": lambda path: write_nifti(path, numbered(8, 8, 8)),
    "a.nrrd": lambda path: write_itk(path, VOXELS),
    "packed.nrrd": packed,
    "a.mha": lambda path: write_itk(path, VOXELS),
    "packed.mha": packed,
    "a.png": picture,
    "a.jpg": picture,
}


# a file cut short, or changed


@pytest.mark.parametrize("percent", [10, 50, 99])
@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_file_is_a_fault(tmp_path, capfd, name, percent):
    file = WRITERS[name](tmp_path / name)
    read(file)
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) * percent // 100])
    text = fault(file)
    assert f"{name} is truncated" in text, text
    if percent > 10:  # ITK's header reader speaks for itself
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_file_is_a_fault(tmp_path, name):
    (tmp_path / name).touch()
    assert fault(tmp_path / name).startswith(f"{name} is empty: copy it again from its source")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.png", "packed.nrrd", "packed.mha"])
def test_a_flipped_bit_of_compressed_voxels_is_a_fault_or_changes_nothing(tmp_path, name):
    """One bit of each byte is flipped. The header of a gzip stream is not in its checksum, and holds no voxel."""
    small = np.random.default_rng(0).integers(0, 255, (5, 5, 5)).astype(np.uint8)
    file = tmp_path / name
    if name == "a.png":
        picture(file, small[..., 0])
    else:
        write_nifti(file, small) if name == "a.nii.gz" else write_itk(file, small, compression=True)
    good, raw = read(file), file.read_bytes()
    start = {"packed.nrrd": raw.find(b"\n\n") + 2, "packed.mha": raw.find(b"LOCAL\n") + 6}.get(name, 0)
    faults = 0
    for at in range(start, len(raw)):
        flipped = bytearray(raw)
        flipped[at] ^= 1 << at % 8
        file.write_bytes(flipped)
        try:
            assert replace(read(file), sha256=good.sha256) == good, at
        except ScanFault:
            faults += 1
    assert faults > 0.9 * (len(raw) - start) > 50


@pytest.mark.parametrize(("end", "text"), [(-8, "checksum"), (-4, "length")])
def test_a_wrong_trailer_alone_is_a_fault(tmp_path, end, text):
    file = write_nifti(tmp_path / "a.nii.gz", VOXELS)
    raw = bytearray(file.read_bytes())
    raw[end] ^= 1
    file.write_bytes(raw)
    assert fault(file) == f"a.nii.gz is damaged: its {text} does not match."


def test_a_stream_of_several_members_is_read_to_its_end(tmp_path):
    whole = write_nifti(tmp_path / "whole.nii", VOXELS)
    raw, file = whole.read_bytes(), tmp_path / "a.nii.gz"
    members = [gzip.compress(raw[:200]), gzip.compress(raw[200:380]), gzip.compress(raw[380:])]
    file.write_bytes(b"".join(members))
    assert read(file).voxels == read(whole).voxels
    file.write_bytes(b"".join(members) + bytes(512))  # padding
    assert read(file).voxels == read(whole).voxels
    file.write_bytes(b"".join(members) + b"rubbish")
    assert "not all of its data is compressed" in fault(file)
    for number in range(3):  # a trailer in the middle
        parts = [bytearray(member) for member in members]
        parts[number][-8] ^= 1
        file.write_bytes(b"".join(parts))
        assert "checksum" in fault(file)
    file.write_bytes(b"".join(members[:2]))
    assert "a.nii.gz is truncated" in fault(file)


def test_a_stream_that_unpacks_to_far_more_than_promised_is_left(tmp_path):
    raw = write_nifti(tmp_path / "a.nii", VOXELS).read_bytes()
    bomb = tmp_path / "bomb.nii.gz"
    bomb.write_bytes(gzip.compress(raw + bytes(2**25)))
    tracemalloc.start()
    try:
        assert "holds more than the 472 bytes that its header promises" in fault(bomb)  # 352 + 5 * 4 * 3 * 2
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()


def test_a_file_of_another_kind_than_its_name_is_a_fault(tmp_path):
    file = write_nifti(tmp_path / "a.nii", VOXELS)
    assert "is not compressed, which its name denies" in fault(file.rename(tmp_path / "b.nii.gz"))
    assert "is compressed, which its name denies" in fault(
        write_nifti(tmp_path / "c.nii.gz", VOXELS).rename(tmp_path / "c.nii")
    )
    for name in ("text.nii", "text.png", "text.jpg", "text.nrrd", "text.mha", "text.txt"):
        (tmp_path / name).write_text("no image" * 100)
        fault(tmp_path / name)
    assert "of no kind that is read here: NIfTI, DICOM, NRRD" in fault(tmp_path / "text.txt")
    assert fault(tmp_path / "gone.nii") == f"gone.nii does not exist ({tmp_path})."


# header


def edited(folder: Path, name: str, at: int, content: bytes) -> Path:
    """A good volume with some bytes of its header replaced."""
    raw = bytearray(write_nifti(folder / "good.nii", VOXELS).read_bytes())
    raw[at : at + len(content)] = content
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return folder / name


def dims(*shape: int) -> bytes:
    return np.array([len(shape), *shape], "<i2").tobytes()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((32767, 32767, 32767), "promises 32767x32767x32767 voxels, more than 2147483648"),
        ((0, 5, 5), "has the size 0x5x5"),
        ((5, -5, 5), "has the size 5x-5x5"),
        ((), "has the size of no axis"),
        ((60,), "has the size 60, expected two or three axes"),
        ((5, 4, 1, 1, 3), "has the size 5x4x1x1x3, expected two or three axes"),
        ((5, 4, 4), "is truncated: its header promises 512 bytes, it has 472"),
    ],
)
def test_sizes_are_judged(tmp_path, name, shape, text):
    assert text in fault(edited(tmp_path, name, 40, dims(*shape)))


def test_a_size_is_judged_before_voxels_are_unpacked(tmp_path, monkeypatch):
    file = edited(tmp_path, "a.nii.gz", 40, dims(1000, 1000, 3000))
    monkeypatch.setattr("custom.cohort.formats.nifti.gunzip", lambda *_: pytest.fail("unpacked"))
    assert "more than" in fault(file)


def test_the_limit_of_voxels_can_be_given(tmp_path):
    for path in (
        write_series(tmp_path / "p01", VOXELS),
        write_nifti(tmp_path / "a.nii", VOXELS),
        write_itk(tmp_path / "a.nrrd", VOXELS),
        picture(tmp_path / "a.png"),
    ):
        shape = "30x20" if path.suffix == ".png" else "5x4x3"
        assert f"promises {shape} voxels, more than 59" in fault(path, max_voxels=59)
    assert read(tmp_path / "a.nii", max_voxels=60)


@pytest.mark.parametrize(
    ("at", "content", "text"),
    [
        (70, b"\x01\x00", "voxels of type"),  # one bit a voxel
        (70, b"\x07\x00", "voxels of a type that is not known (7)"),
        (70, b"\x80\x00", "voxels of type"),  # colours
        (70, b"\x20\x00", "voxels of type complex64"),
        (108, np.float32(math.nan).tobytes(), "its voxels begin at byte nan"),
        (108, np.float32(-5).tobytes(), "its voxels begin at byte -5"),
        (344, b"xyz\0", "not a NIfTI file, or is damaged"),
    ],
)
def test_other_fields_of_the_header_are_judged(tmp_path, at, content, text):
    assert text in fault(edited(tmp_path, "a.nii", at, content))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ((0, 0, 0, 0), "singular"),
        ((0, 1, 0, 0), "singular"),
        ((math.nan, 0, 0, 0), "not finite"),
        ((1, 0, 0, math.inf), "not finite"),
    ],
)
def test_an_affine_that_is_singular_or_not_finite_is_a_fault(tmp_path, row, text):
    assert text in fault(edited(tmp_path, "a.nii", 280, np.array(row, "<f4").tobytes()))


def test_thick_slices_tiny_voxels_and_a_tilted_gantry_are_no_singular_affine(tmp_path):
    tilted = np.diag([1.0, 1.0, 5.0, 1.0])
    tilted[1, 2] = 700  # 0.4 degrees to its plane
    for number, affine in enumerate((np.diag([0.06, 0.06, 19.0, 1.0]), np.diag([1e-7, 1e-7, 1e-7, 1.0]), tilted)):
        read(write_nifti(tmp_path / f"{number}.nii", VOXELS, affine))


def test_an_unusual_voxel_size_is_a_warning(tmp_path):
    (warning,) = read(write_nifti(tmp_path / "a.nii", VOXELS, np.diag([1, 1, 25.0, 1]))).warnings
    assert warning == "unusual voxel size: 1x1x25 mm, outside 0.05-20 mm"
    (warning,) = read(write_nifti(tmp_path / "b.nii", VOXELS, np.diag([0.001, 1, 1, 1]))).warnings
    assert warning.startswith("unusual voxel size: 0.001x1x1 mm")


def test_bytes_after_the_voxels_are_a_warning(tmp_path):
    file = write_nifti(tmp_path / "a.nii", VOXELS)
    file.write_bytes(file.read_bytes() + bytes(8))
    assert read(file).warnings == ("bytes after the voxels: 8",)


# which of sform, qform and pixdim counts is MONAI's decision: Facts say what its reader gives

CONTRADICTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "none": ({}, []),
    "sform of 1 mm": (
        {"qform_code": 0, "sform_code": 2, "pixdim": [1, 1.5, 1.25, 8, 0, 0, 0, 0],
         "srow_x": [-1, 0, 0, 0], "srow_y": [0, -1, 0, 0], "srow_z": [0, 0, 1, 0]},
        ["1x1x1 mm by the affine (sform or qform)", "1.5x1.25x8 mm by the voxel sizes (pixdim)", "voxel sizes are used"],
    ),
    "both": ({"pixdim": [1, 2, 2, 2, 0, 0, 0, 0]}, ["2x2x2 mm by the voxel sizes (pixdim)", "voxel sizes are used"]),
    "qform alone": ({"sform_code": 0, "qform_code": 1, "pixdim": [1, 2, 2, 2, 0, 0, 0, 0]}, []),
    "no transform": ({"sform_code": 0, "qform_code": 0, "pixdim": [1, 2, 3, 4, 0, 0, 0, 0]}, ["nothing of its orientation"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
@pytest.mark.parametrize("voxels", [VOXELS, numbered(5, 4, 3, 2)], ids=["3D", "4D"])
def test_affine_and_spacing_are_those_of_monais_reader(tmp_path, name, voxels):
    """Those of the volume: with an axis of channels MONAI's own rule reads another grid from the same header."""
    fields, parts = CONTRADICTIONS[name]
    file = write_nifti(tmp_path / "a.nii.gz", voxels, affine_ras(), **fields)
    volume = write_nifti(tmp_path / "volume.nii.gz", VOXELS, affine_ras(), **fields)
    facts, load = read(file), LoadImage(ensure_channel_first=True)
    np.testing.assert_array_equal(facts.affine, load(volume).affine)
    np.testing.assert_allclose(facts.spacing_mm, load(volume).pixdim, rtol=1e-12)
    assert (facts.channels, *facts.shape) == load(file).shape
    if voxels.ndim == 3:
        assert len(facts.warnings) == bool(parts), facts.warnings
        for warning in facts.warnings:
            says(warning, *parts)
    for warning in [text for text in facts.warnings if not text.startswith("NIfTI without orientation: ")]:
        assert warning.startswith("affine and voxel sizes contradict each other: ")
        used = "voxel sizes are" if "voxel sizes are used" in warning else "affine is"
        sizes = (
            np.linalg.norm(nib.load(file).affine[:3, :3], axis=0)
            if used == "affine is"
            else nib.load(file).header.get_zooms()[:3]
        )
        np.testing.assert_allclose(facts.spacing_mm, sizes, rtol=1e-5)
