"""The promises of custom/cohort/facts.py: what a scan holds, and an unchanged file is read once."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scan_files import VOXELS, affine_ras, numbered, picture, write_itk, write_nifti, write_series

from custom.cohort import facts as scans
from custom.cohort.facts import Facts, Record, ScanFault, read


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


# the record of what was read


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
    folder, record = str(write_series(tmp_path / "p01", VOXELS)), Record()
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
