"""The promises of custom/cohort/facts.py: what a scan holds."""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scan_files import VOXELS, affine_ras, numbered, write_itk, write_nifti

from custom.cohort import facts
from custom.cohort.facts import Facts, read
from custom.cohort.formats import ScanFault, counts, nifti, open_scan, streamed


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


@pytest.mark.parametrize(("dtype", "most"), [(np.int16, 3), (np.uint8, 2), (np.float32, 5), (np.float64, 10)])
def test_reading_holds_no_copies_of_a_volume_but_what_is_unpacked_and_the_voxels(tmp_path, monkeypatch, dtype, most):
    monkeypatch.setattr(counts, "AT_ONCE", 2**12)
    monkeypatch.setattr(facts, "AT_ONCE", 2**12)
    voxels = np.zeros((128, 128, 128), dtype)
    voxels[30:60, 40:50] = 2
    file = write_nifti(tmp_path / "a.nii.gz", voxels)
    read(file)  # what is loaded once
    tracemalloc.start()
    assert read(file).values == ((0.0, voxels.size - 38400), (2.0, 38400))
    peak = tracemalloc.get_traced_memory()[1] / voxels.size
    tracemalloc.stop()
    assert peak < voxels.itemsize + most


@pytest.mark.parametrize("shape", [(511, 511, 1), (512, 512, 3)])
def test_what_is_found_piece_by_piece_is_what_the_whole_has(tmp_path, monkeypatch, shape):
    rng, size = np.random.default_rng(0), math.prod(shape)
    voxels = np.where(rng.random(size) < 0.2, math.nan, rng.integers(0, 200, size)).astype(np.float32).reshape(shape)
    first = read(file := write_nifti(tmp_path / "a.nii", voxels))
    monkeypatch.setattr(counts, "AT_ONCE", 1000)
    monkeypatch.setattr(facts, "AT_ONCE", 1000)
    found = read(file)
    assert found == first
    good = voxels[np.isfinite(voxels)]
    assert found.values == tuple((float(value), int((good == value).sum())) for value in range(200))
    assert (found.low, found.high, found.nonfinite) == (0, 199, size - good.size)


def test_values_nearly_whole_are_counted_as_whole_ones_only_where_all_are(tmp_path):
    voxels = np.resize(np.arange(4, dtype=np.float32) + 1e-5, (8, 8, 8))
    assert [value for value, _ in read(write_nifti(tmp_path / "a.nii", voxels)).values] == [0, 1, 2, 3]
    voxels[0, 0, 0] = 0.5
    assert 0.5 in dict(read(write_nifti(tmp_path / "b.nii", voxels)).values)
    assert 1.0 not in dict(read(tmp_path / "b.nii").values)


def test_more_values_than_a_byte_has_are_not_listed(tmp_path):
    assert len(read(write_nifti(tmp_path / "a.nii.gz", numbered(16, 16, 1))).values) == 256
    assert read(write_nifti(tmp_path / "b.nii.gz", numbered(257, 1, 1))).values is None
    rare = np.zeros((64, 64, 64), np.int16)  # more than a sample sees
    rare[0, :4, :64] = np.arange(1, 257).reshape(4, 64)
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


KINDS = {"int16": np.int16, "uint8": np.uint8, "scaled": np.int16, "float32": np.float32, "channels": np.int16}


@pytest.fixture
def _streamed(monkeypatch):
    monkeypatch.setattr(nifti, "STREAMED", 1000)
    monkeypatch.setattr(streamed, "AT_ONCE", 3 * 9 * 8)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_image_is_read_in_slabs_and_its_facts_are_the_same(tmp_path, monkeypatch, request, name, kind):
    monkeypatch.setattr(facts, "SAMPLE", 300)
    voxels = np.random.default_rng(0).integers(0, 200, (9, 8, 70, 2) if kind == "channels" else (9, 8, 70))
    image = nib.Nifti1Image(voxels.astype(KINDS[kind]), np.diag([2, 3, 4, 1]))
    if kind == "float32":
        image.get_fdata()[3, 4, 5] = np.inf
    image.header.set_slope_inter(*((0.37, -3) if kind == "scaled" else (1, 0)))
    nib.save(image, tmp_path / name)
    whole = read(tmp_path / name, label=False)
    request.getfixturevalue("_streamed")
    scan = open_scan(tmp_path / name, 10**6, streamed=True)
    assert len(scan.streamed) == (2 if kind == "channels" else 1)
    found = read(tmp_path / name, label=False)
    assert replace(found, voxels="") == replace(whole, voxels="")
    stored = np.asarray(nib.load(tmp_path / name).dataobj)
    channels = b"".join(c.astype("<f4").tobytes(order="F") for c in np.moveaxis(stored.reshape(9, 8, 70, -1), -1, 0))
    assert found.voxels == hashlib.sha256(f"({len(scan.streamed)}, 9, 8, 70)".encode() + channels).hexdigest()
    assert open_scan(tmp_path / name, 10**6).streamed == []


@pytest.mark.usefixtures("_streamed")
def test_damage_of_a_large_image_is_found_as_that_of_a_small_one(tmp_path):
    file = write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 200, (9, 8, 70)).astype(np.int16))
    good = file.read_bytes()
    for content, message in (
        (good[:-200], "a.nii.gz is truncated."),
        (good[:-8] + b"1234" + good[-4:], "a.nii.gz is damaged: its checksum does not match."),
        (
            gzip.compress(gzip.decompress(good)[:-7]),
            "a.nii.gz is truncated: its header promises 10432 bytes, it has 10425.",
        ),
        (
            gzip.compress(gzip.decompress(good) + bytes(2**22)),
            "a.nii.gz holds more than the 10432 bytes that its header promises: damaged?",
        ),
        (
            gzip.decompress(good),
            "a.nii.gz is not compressed, which its name denies: damaged, or to be renamed to .nii.",
        ),
    ):
        file.write_bytes(content)
        with pytest.raises(ScanFault, match="^" + re.escape(message)):
            read(file, label=False)
    file = tmp_path / "b.nii"
    file.write_bytes(gzip.decompress(good)[:-7])
    with pytest.raises(ScanFault, match=r"^b\.nii is truncated: its header promises 10432 bytes, it has 10425\.$"):
        read(file, label=False)
    file.write_bytes(gzip.decompress(good) + b"more")
    assert "bytes after the voxels: 4" in read(file, label=False).warnings
