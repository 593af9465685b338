"""The promises of custom/scans.py: every fault of a file is found by reading it, and an unchanged file is read once."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import math
import os
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from monai.data import ITKReader
from monai.transforms import LoadImage
from PIL import Image
from scan_files import SPACING, affine_ras, numbered, write_itk, write_nifti, write_series

from custom.cohort import facts as scans
from custom.cohort.facts import Facts, Record, ScanFault, read
from custom.cohort.reader import ScanReader

VOXELS = numbered(5, 4, 3)


def fault(path: Path, **options: Any) -> str:
    with pytest.raises(ScanFault) as error:
        read(path, **options)
    assert str(error.value).startswith(path.name)
    return str(error.value)


def picture(path: Path, pixels: np.ndarray | None = None, **options: Any) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise if pixels is None else pixels).save(path, **options)
    return path


def series(path: Path) -> Path:
    return write_series(path, VOXELS)


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


# facts


def test_facts_of_a_small_volume(tmp_path):
    voxels = np.array([[[0, 1], [1, 2]], [[2, 2], [2, 100]]], np.int16)
    file = write_nifti(tmp_path / "a.nii.gz", voxels, np.diag([2.0, 3.0, 4.0, 1.0]))
    assert read(file) == Facts(
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        voxels=hashlib.sha256(b"(1, 2, 2, 2)" + voxels.astype("<f4").tobytes()).hexdigest(),
        shape=(2, 2, 2),
        channels=1,
        spacing_mm=(2.0, 3.0, 4.0),
        affine=((2.0, 0.0, 0.0, 0.0), (0.0, 3.0, 0.0, 0.0), (0.0, 0.0, 4.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
        dtype="int16",
        low=0.0,
        high=100.0,
        percentiles=((0.035, 2.0, pytest.approx(100 - 0.035 * 98)),),  # at 0.035, 3.5 and 6.965 of 0..7
        nonfinite=0,
        values=((0.0, 1), (1.0, 2), (2.0, 4), (100.0, 1)),
        warnings=(),
    )


def test_the_digest_of_voxels_knows_a_copy_and_no_other(tmp_path):
    original = read(write_nifti(tmp_path / "a.nii.gz", VOXELS))
    copies = [
        write_nifti(tmp_path / "renamed.nii", VOXELS, affine_ras()),
        write_nifti(tmp_path / "float.nii.gz", VOXELS.astype(np.float32)),
        write_itk(tmp_path / "other.nrrd", VOXELS),
    ]
    for copy in copies:
        assert read(copy).voxels == original.voxels, copy
        assert read(copy).sha256 != original.sha256
    other = VOXELS.copy()
    other[0, 0, 0] += 1
    for number, voxels in enumerate(
        (other, VOXELS.reshape(4, 5, 3), VOXELS[::-1], VOXELS.reshape(5, 4, 3, 1)[:, :, :2])
    ):
        assert read(write_nifti(tmp_path / f"other{number}.nii", voxels)).voxels != original.voxels
    one, two = (np.stack([VOXELS, last], axis=-1) for last in (VOXELS, other))
    assert read(write_nifti(tmp_path / "1.nii", one)).voxels != read(write_nifti(tmp_path / "2.nii", two)).voxels


def test_channels_of_a_fourth_axis_have_percentiles_each(tmp_path):
    facts = read(write_nifti(tmp_path / "a.nii.gz", np.stack([VOXELS * 0, VOXELS * 0 + 7], axis=-1)))
    assert (facts.shape, facts.channels) == ((5, 4, 3), 2)
    assert facts.percentiles == ((0.0, 0.0, 0.0), (7.0, 7.0, 7.0))
    assert facts.values == ((0.0, 60), (7.0, 60))


def test_nonfinite_voxels_are_counted_and_left_out(tmp_path):
    voxels = np.ones((4, 4, 4), np.float32)
    voxels[0, 0, :3] = math.nan, math.inf, 5
    facts = read(write_nifti(tmp_path / "a.nii.gz", voxels))
    assert (facts.nonfinite, facts.low, facts.high) == (2, 1.0, 5.0)
    assert facts.values == ((1.0, 61), (5.0, 1))
    nothing = read(write_nifti(tmp_path / "b.nii.gz", voxels * math.nan))
    assert nothing.nonfinite == 64
    assert math.isnan(nothing.low)
    assert all(math.isnan(value) for value in nothing.percentiles[0])
    assert nothing.values == ()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([-128, 0, 127], np.int8),
        ([0, 1, 255], np.uint8),
        ([-1, 1.5], np.float32),
        ([0, 2.0e9], np.int32),
        ([0, 3], np.float64),
    ],
)
def test_different_values_are_counted(tmp_path, values, dtype):
    voxels = np.resize(np.array(values, dtype), (6, 5, 4))
    found = read(write_nifti(tmp_path / "a.nii.gz", voxels)).values
    assert found == tuple((float(v), int((voxels == v).sum())) for v in values)


def test_more_than_64_values_are_not_listed(tmp_path):
    assert read(write_nifti(tmp_path / "a.nii.gz", numbered(4, 4, 4))).values is not None
    assert read(write_nifti(tmp_path / "b.nii.gz", numbered(5, 13, 1))).values is None
    rare = np.zeros((64, 64, 64), np.int16)  # more than a sample sees
    rare[0, 1, :64] = np.arange(1, 65)
    assert read(write_nifti(tmp_path / "c.nii.gz", rare)).values is None


def test_percentiles_of_a_large_volume_are_sampled_over_all_columns(tmp_path):
    """Four times the sample: every fourth voxel would be of the first of four columns alone."""
    voxels = np.broadcast_to((np.arange(1024) % 4)[:, None], (1024, 1024)).astype(np.uint8)
    for name, turned in (("a.nii", voxels), ("b.nii", voxels.T)):
        assert read(write_nifti(tmp_path / name, turned)).percentiles == ((0.0, pytest.approx(1.5, abs=0.5), 3.0),)


def test_scaled_values_are_those_of_the_voxels_and_the_type_is_the_files(tmp_path):
    file = write_nifti(tmp_path / "a.nii", VOXELS)
    with file.open("r+b") as opened:  # scl_slope, scl_inter
        opened.seek(112)
        opened.write(np.array([0.5, 10], "<f4").tobytes())
    facts = read(file)
    assert (facts.dtype, facts.low, facts.high) == ("int16", 10.0, 10 + 59 / 2)


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
    assert fault(tmp_path / name) == f"{name} is empty."


@pytest.mark.parametrize("name", ["a.nii.gz", "a.png", "packed.nrrd", "packed.mha"])
def test_a_flipped_bit_of_compressed_voxels_is_a_fault_or_changes_nothing(tmp_path, name):
    """Of each byte one bit. The header of a gzip stream is not in its checksum, and holds no voxel."""
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
    assert fault(file) == "a.nii.gz is damaged: 7 bytes follow the end of its compressed data."
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
        ((5, 4, 3, 1, 1), "has the size 5x4x3x1x1, expected two or three axes"),
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
        series(tmp_path / "p01"),
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
        (344, b"xyz\0", "no NIfTI file, or damaged"),
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

CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, ""),
    "sform of 1 mm": (
        {"qform_code": 0, "sform_code": 2, "pixdim": [1, 1.5, 1.25, 8, 0, 0, 0, 0],
         "srow_x": [-1, 0, 0, 0], "srow_y": [0, -1, 0, 0], "srow_z": [0, 0, 1, 0]},
        "1x1x1 mm by the affine (sform or qform), 1.5x1.25x8 mm by the voxel sizes (pixdim); the voxel sizes are used",
    ),
    "both": ({"pixdim": [1, 2, 2, 2, 0, 0, 0, 0]}, "2x2x2 mm by the voxel sizes (pixdim); the voxel sizes are used"),
    "qform alone": ({"sform_code": 0, "pixdim": [1, 2, 2, 2, 0, 0, 0, 0]}, ""),
    "no transform": ({"sform_code": 0, "qform_code": 0, "pixdim": [1, 2, 3, 4, 0, 0, 0, 0]}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
@pytest.mark.parametrize("voxels", [VOXELS, numbered(5, 4, 3, 2)], ids=["3D", "4D"])
def test_affine_and_spacing_are_those_of_monais_reader(tmp_path, name, voxels):
    fields, text = CONTRADICTIONS[name]
    file = write_nifti(tmp_path / "a.nii.gz", voxels, affine_ras(), **fields)
    facts, loaded = read(file), LoadImage(ensure_channel_first=True)(file)
    np.testing.assert_array_equal(facts.affine, loaded.affine)
    np.testing.assert_allclose(facts.spacing_mm, loaded.pixdim, rtol=1e-12)
    assert (facts.channels, *facts.shape) == loaded.shape
    if voxels.ndim == 3:
        assert [text in warning for warning in facts.warnings] == [True] * bool(text), facts.warnings
    for warning in facts.warnings:
        assert warning.startswith("affine and voxel sizes contradict each other: ")
        used = "voxel sizes are" if "voxel sizes are used" in warning else "affine is"
        sizes = (
            np.linalg.norm(nib.load(file).affine[:3, :3], axis=0)
            if used == "affine is"
            else nib.load(file).header.get_zooms()[:3]
        )
        np.testing.assert_allclose(facts.spacing_mm, sizes, rtol=1e-5)


# other formats


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd", "p01"])
def test_other_formats_are_read_as_monai_reads_them(tmp_path, name):
    path = write_itk(tmp_path / name, VOXELS) if "." in name else series(tmp_path / name)
    facts, loaded = read(path), LoadImage(reader=ITKReader, ensure_channel_first=True)(path)
    np.testing.assert_array_equal(facts.affine, loaded.affine)
    np.testing.assert_allclose(facts.affine, affine_ras(), atol=1e-6)
    np.testing.assert_allclose(facts.spacing_mm, SPACING, atol=1e-6)
    assert (facts.shape, facts.channels, facts.dtype) == ((5, 4, 3), 1, "int16")
    assert facts.voxels == read(write_nifti(tmp_path / "same.nii", VOXELS)).voxels
    assert facts.warnings == ()


def test_bytes_of_a_series_are_digested_in_the_order_of_names(tmp_path):
    folder = series(tmp_path / "p01")
    raw = b"".join(file.read_bytes() for file in sorted(folder.iterdir()))
    assert read(folder).sha256 == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "RGB"), ("a.jpg", "RGB"), ("a.png", "L"), ("a.jpg", "L"), ("a.png", "1")]
)
def test_pictures(tmp_path, name, mode):
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / name, dpi=(300, 300))
    facts, loaded = read(tmp_path / name), LoadImage(reader=ScanReader, ensure_channel_first=True)(tmp_path / name)
    assert (facts.shape, facts.channels, facts.dtype) == ((30, 20), 3 if mode == "RGB" else 1, "uint8")
    assert (facts.channels, *facts.shape) == loaded.shape
    assert facts.spacing_mm == (1.0, 1.0)
    assert facts.warnings == ()
    if mode == "1":
        assert [value for value, _ in facts.values] == [0.0, 255.0]


def test_a_flipped_bit_of_a_png_is_found_by_its_checksum(tmp_path):
    raw = bytearray(picture(tmp_path / "a.png").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(raw)
    assert fault(tmp_path / "a.png") == "a.png is damaged: its checksum does not match."


def test_a_jpeg_may_be_padded(tmp_path):
    file = picture(tmp_path / "a.jpg")
    facts = read(file)
    file.write_bytes(file.read_bytes() + bytes(100))
    assert read(file).voxels == facts.voxels


@pytest.mark.parametrize("options", [{}, {"transparency": 3}], ids=["alpha", "one value"])
def test_grey_with_transparency_is_refused_for_itk_misreads_it(tmp_path, options):
    grey = Image.fromarray(numbered(8, 9, dtype=np.uint8))
    (grey if options else Image.merge("LA", [grey, grey])).save(tmp_path / "a.png", **options)
    assert fault(tmp_path / "a.png") == "a.png is grey with transparency; save it without."


def test_voxels_beside_a_header(tmp_path):
    file = write_itk(tmp_path / "a.mhd", VOXELS)
    good, raw = read(file), (tmp_path / "a.raw").read_bytes()
    (tmp_path / "a.raw").write_bytes(bytes(len(raw)))
    assert read(file).sha256 != good.sha256
    (tmp_path / "a.raw").write_bytes(raw[:-1])
    assert fault(file) == "a.mhd is truncated: its header promises 120 bytes of voxels."
    (tmp_path / "a.raw").unlink()
    assert "a.mhd has its voxels in a.raw, which is not there." in fault(file)
    text = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\nendian: little\ndata file: a.raw\n"
    (tmp_path / "a.raw").write_bytes(raw)
    (tmp_path / "a.nrrd").write_bytes(text)
    assert fault(tmp_path / "a.nrrd") == "a.nrrd keeps its voxels in another file; save both in one."


def test_compressed_meta_voxels_of_more_than_the_promised_length_or_without_their_checksum(tmp_path):
    file = packed(tmp_path / "a.mha")
    header, voxels = file.read_bytes().split(b"LOCAL\n", 1)
    for length in (1, 4):  # of the checksum
        file.write_bytes(header + b"LOCAL\n" + voxels[:-length])
        assert "is truncated" in fault(file)
    file.write_bytes(header + b"LOCAL\n" + zlib.compress(bytes(2**24)))
    fault(file)


# DICOM series


def test_a_folder_without_a_series_is_a_fault(tmp_path):
    (tmp_path / "p01").mkdir()
    (tmp_path / "p01/notes.txt").write_text("none")
    assert fault(tmp_path / "p01") == "p01 is a folder without a DICOM image."


def test_several_series_are_listed(tmp_path):
    write_series(series(tmp_path / "p01"), VOXELS[..., :2], series="5.6.7")
    text = fault(tmp_path / "p01")
    assert text == "p01 holds 2 DICOM series, expected one a folder: 1.2.3.4_0.dcm and 2 more; 5.6.7_0.dcm and 1 more."


@pytest.mark.parametrize("cut", [10, 50, 99, -1])
def test_a_truncated_slice_is_named(tmp_path, cut):
    """ITK would leave it out, and the slices beyond it would come one place nearer."""
    file = series(tmp_path / "p01") / "1.2.3.4_7.dcm"
    raw = file.read_bytes()
    file.write_bytes(raw[:cut] if cut < 0 else raw[: len(raw) * cut // 100])
    assert fault(tmp_path / "p01") == "p01 has DICOM files that are truncated or no images: 1.2.3.4_7.dcm."


@pytest.mark.parametrize("at", [(0, 1, 3), (0, 2, 3, 4, 5), (0, 1, 1), (0, 0, 1, 1), (0, 1, 2, 3, 4, 5, 6, 7, 9)])
def test_a_missing_or_doubled_slice_is_a_fault(tmp_path, capfd, at):
    write_series(tmp_path / "p01", numbered(5, 4, len(at)), at=at)
    assert "p01 has slices at unequal distances" in fault(tmp_path / "p01")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("at", [(0, 0, 0), (0, 0), (7, 7, 7)])
def test_a_film_of_one_slice_is_no_volume(tmp_path, at):
    """ITK would stack its frames at 1 mm."""
    write_series(tmp_path / "p01", numbered(5, 4, len(at)), at=at)
    assert fault(tmp_path / "p01").startswith("p01 has slices that lie at one place: a film")


def test_slightly_unequal_distances_are_a_warning(tmp_path, capfd):
    write_series(tmp_path / "p01", VOXELS, at=(0, 1.05, 2))
    assert read(tmp_path / "p01").warnings == ("slices at unequal distances: up to 5.0% off the mean",)
    assert capfd.readouterr().err == ""


def test_other_files_in_the_folder_of_a_series_do_not_matter(tmp_path):
    folder = series(tmp_path / "p01")
    facts = read(folder)
    (folder / "notes.txt").write_text("read twice")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "._1.2.3.4_0.dcm").write_bytes(b"of macOS")
    assert read(folder).voxels == facts.voxels


@pytest.mark.slow
def test_threads_that_come_first_to_itk_leave_the_working_folder_alone(tmp_path):
    """ITK changes it while it loads a module; two at once would put back each other's."""
    for name in "abcd":
        write_itk(tmp_path / f"{name}.nrrd", VOXELS)
    script = (
        "import os, sys; from custom.cohort.facts import Facts, Record; here = os.getcwd();"
        "found = Record().facts(['a.nrrd', 'b.nrrd', 'c.nrrd', 'd.nrrd'], workers=4);"
        "assert all(isinstance(f, Facts) for f in found.values()), found; assert os.getcwd() == here, os.getcwd()"
    )
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )


# record


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, in order."""
    names: list[str] = []

    def noting(path: str) -> Facts:
        names.append(Path(path).name)
        return read(path)

    monkeypatch.setattr(scans, "read", noting)
    return names


def volumes(folder: Path, count: int = 3) -> list[str]:
    return [str(write_nifti(folder / f"{k}.nii.gz", VOXELS + k)) for k in range(count)]


def test_an_unchanged_file_is_read_once(tmp_path, seen):
    files = volumes(tmp_path)
    first = Record(tmp_path / "list.checked.json").facts(files)
    assert seen == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]
    again = Record(tmp_path / "list.checked.json")
    assert again.facts(files) == first
    assert len(seen) == 3
    assert again.known(files[1]) == first[files[1]]
    assert again.known(str(tmp_path / "gone.nii")) is None
    more = [*files, str(write_nifti(tmp_path / "3.nii.gz", VOXELS))]
    Record(tmp_path / "list.checked.json").facts(more)
    assert seen[3:] == ["3.nii.gz"]


def test_what_is_recorded_is_what_was_read(tmp_path):
    voxels = VOXELS.astype(np.float32)
    voxels[0] = math.nan
    files = [
        str(write_nifti(tmp_path / "a.nii.gz", voxels, np.diag([1 / 3, 1, 90, 1]))),
        str(picture(tmp_path / "a.png")),
    ]
    first = Record(tmp_path / "record.json").facts(files)
    assert Record(tmp_path / "record.json").facts(files) == first
    nothing = [str(write_nifti(tmp_path / "b.nii.gz", voxels * math.nan))]
    before = Record(tmp_path / "record.json").facts(nothing)
    assert str(Record(tmp_path / "record.json").facts(nothing)) == str(before)  # NaN is not equal to itself


def test_order_and_keys_are_those_of_the_paths(tmp_path, monkeypatch):
    files = volumes(tmp_path)
    record = Record()
    record.facts([files[1]])
    assert list(record.facts([files[2], files[1], files[0], files[2]])) == [files[2], files[1], files[0]]
    monkeypatch.chdir(tmp_path)
    assert list(record.facts(["0.nii.gz"])) == ["0.nii.gz"]
    assert record.known("0.nii.gz") == record.known(files[0]) is not None


def test_a_file_overwritten_with_its_time_put_back_is_read_again(tmp_path, seen):
    (file,) = volumes(tmp_path, 1)
    old = Record(tmp_path / "record.json").facts([file])[file]
    before, size = os.stat(file), Path(file).stat().st_size
    raw = bytearray(Path(file).read_bytes())
    raw[4] ^= 1  # the time in the gzip header: the same size, another digest
    Path(file).write_bytes(raw)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (os.stat(file).st_mtime_ns, os.stat(file).st_size) == (before.st_mtime_ns, size)
    record = Record(tmp_path / "record.json")
    assert record.known(file) is None
    assert record.facts([file])[file].sha256 != old.sha256
    assert len(seen) == 2


def test_a_changed_slice_changes_its_series(tmp_path):
    folder, record = str(series(tmp_path / "p01")), Record()
    record.facts([folder])
    assert record.known(folder)
    file = next((tmp_path / "p01").iterdir())
    file.write_bytes(file.read_bytes())
    assert record.known(folder) is None


def test_changed_voxels_beside_a_header_change_the_scan(tmp_path):
    file, record = str(write_itk(tmp_path / "a.mhd", VOXELS)), Record()
    record.facts([file])
    assert record.known(file)
    (tmp_path / "a.raw").write_bytes((tmp_path / "a.raw").read_bytes())
    assert record.known(file) is None


def test_a_fault_is_not_recorded(tmp_path, seen):
    files = volumes(tmp_path)
    Path(files[1]).write_bytes(Path(files[1]).read_bytes()[:-4])
    for _ in range(2):
        found = Record(tmp_path / "record.json").facts(files)
        assert str(found[files[1]]) == "1.nii.gz is truncated."
        assert isinstance(found[files[0]], Facts)
    assert seen.count("0.nii.gz") == 1
    assert seen.count("1.nii.gz") == 2


def test_a_bug_in_a_reader_is_a_fault_of_that_file_alone(tmp_path, monkeypatch):
    files = volumes(tmp_path)

    def broken(path: str) -> Facts:
        return read(path) if not path.endswith("1.nii.gz") else 1 / 0

    monkeypatch.setattr(scans, "read", broken)
    found = Record().facts(files)
    assert [type(found[file]) for file in files] == [Facts, ScanFault, Facts]
    assert str(found[files[1]]) == "1.nii.gz cannot be read: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 0, "files": {}}', '{"version": 1}', '{"version": 1, "files": {"a": {}}}', "\udcff"],
)
def test_a_record_that_cannot_be_read_is_made_anew(tmp_path, seen, content):
    files, path = volumes(tmp_path, 1), tmp_path / "record.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    Record(path).facts(files)
    assert len(seen) == 1
    assert set(json.loads(path.read_text())["files"]) == set(files)
    Record(path).facts(files)
    assert len(seen) == 1


def test_a_record_of_another_version_is_made_anew(tmp_path, seen):
    files, path = volumes(tmp_path, 1), tmp_path / "record.json"
    Record(path).facts(files)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 0}))
    Record(path).facts(files)
    assert len(seen) == 2


def test_a_record_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, caplog):
    files = volumes(tmp_path)
    (tmp_path / "file").touch()
    record = Record(tmp_path / "file/record.json")
    with caplog.at_level(logging.INFO, logger="custom.cohort.facts"):
        assert all(isinstance(facts, Facts) for facts in record.facts(files[:1]).values())
        record.facts(files[1:])
    (said,) = [r for r in caplog.records if r.name == "custom.cohort.facts"]
    assert said.levelno == logging.INFO
    assert said.getMessage().startswith("What was read is not recorded, the next check reads every scan again: ")
    assert record.known(files[0])


def test_a_record_without_a_path_stays_in_memory(tmp_path, seen):
    files, record = volumes(tmp_path / "scans"), Record()
    assert record.facts(files) == record.facts(files)
    assert len(seen) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_no_file_is_no_work(tmp_path):
    assert Record(tmp_path / "record.json").facts([]) == {}
    assert not (tmp_path / "record.json").exists()
