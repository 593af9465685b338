"""Room on disk and in memory, known before the first training."""

from __future__ import annotations

import shutil
from collections import namedtuple

from saying import raises

from custom.study import space
from custom.study.settings import StudyError

PROBED = space.Probed(imports=400e6, peak=500e6, run=30e6)


def test_memory_beyond_the_imports_goes_with_the_voxels():
    assert space.memory_of(PROBED, 1) == 500e6
    assert space.memory_of(PROBED, 8) == 400e6 + 8 * 100e6


def test_a_grid_that_all_trainings_side_by_side_have_no_memory_for_is_left_out():
    voxels = {1.0: 8000.0, 0.5: 4000.0, 0.25: 1000.0}  # 1.2, 0.8 and 0.5 GB each
    assert space.rooms_in_memory(PROBED, voxels, 2, memory=2.7e9) == voxels
    assert space.rooms_in_memory(PROBED, voxels, 2, memory=2.6e9) == {0.5: 4000.0, 0.25: 1000.0}
    assert space.rooms_in_memory(PROBED, voxels, 1, memory=1.4e9) == voxels
    with raises(StudyError, "2 training(s) at a time", "1.0 GB of memory", "0.9 GB can be used", "Run fewer"):
        space.rooms_in_memory(PROBED, voxels, 2, memory=1e9)


def test_a_run_s_folder_grows_with_the_weights_and_each_scan_has_maps_and_a_picture(tmp_path):
    image = tmp_path / "a.nii.gz"
    image.write_bytes(b"0" * 1000)
    same = space.disk_needed(PROBED, [16, 32], [16, 32], [image])
    assert same.of(10) == 10 * 30e6 + 3 * 1000 + space.PICTURE
    assert space.disk_needed(PROBED, [32, 64], [16, 32], []).of(10) == 4 * 10 * 30e6
    assert space.disk_needed(PROBED, [8, 16], [16, 32], []).of(10) == 10 * 30e6


def test_a_gpu_holds_the_feature_maps_of_all_trainings_side_by_side():
    assert space.on_device(voxels=1e6, width=16, jobs=1) == 4 * space.MAPS * 16e6
    assert space.on_device(voxels=1e6, width=32, jobs=2) == 4 * space.on_device(voxels=1e6, width=16, jobs=1)


def test_too_little_room_on_disk_is_said_before_anything_runs(tmp_path, monkeypatch):
    free = namedtuple("Usage", "total used free")(0, 0, 5e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert space.check_disk(tmp_path, 40e6) == "about 40 MB on disk, where 5.0 GB are free"
    with raises(StudyError, "6.0 GB on disk", f"5.0 GB are free in {tmp_path}", "Free some", "put the study"):
        space.check_disk(tmp_path, 6e9)


def test_a_folder_s_size_is_that_of_its_files_without_links(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_bytes(b"0" * 123)
    (tmp_path / "link").symlink_to(tmp_path / "a/file")
    assert space.on_disk(tmp_path) == 123


def test_scans_are_kept_once_for_all_trainings_on_the_grid_that_is_planned():
    probed = space.Probed(imports=400e6, peak=500e6, run=30e6, scans=1e9)
    assert space.disk_needed(probed, [16], [16], [], voxels=4.0).of(10) == 10 * 30e6 + 2 * 4e9
    assert space.disk_needed(probed, [16], [16], [], voxels=0.5).of(10) == 10 * 30e6 + 2 * 1e9


def test_what_is_still_to_come_is_that_of_the_trainings_that_are_missing_less_what_lies_there(tmp_path):
    takes, runs, cache = space.Disk(run=1000, scans=500, maps=70), tmp_path / "runs", tmp_path / "cache"
    assert takes.missing(runs, cache, ["a", "b"], maps=True) == 2 * 1000 + 500 + 70
    for folder, size in ((runs / "a", 300), (runs / "b", 4000), (cache, 450)):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"0" * size)
    assert takes.missing(runs, cache, ["a", "b"], maps=False) == 700 + 50
    assert takes.missing(runs, cache, [], maps=False) == 0
