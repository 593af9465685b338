"""The benchmark of patches from disk: every way of reading gives the same voxels; no time is asserted."""

from __future__ import annotations

import sys

import torch

from benchmarks import disk


def test_every_way_gives_the_same_patch(tmp_path, monkeypatch, capsys):
    for name in ("zarr", "blosc2"):
        monkeypatch.setitem(sys.modules, name, None)
    scans = disk.volumes(2, (32, 24, 16))
    found = disk.readers(scans, tmp_path)
    assert len(found) == 4
    assert "blosc2 is not installed: left out" in capsys.readouterr().err
    box = (slice(None), slice(3, 9), slice(0, 24), slice(15, 16))
    for name, read in found.items():
        assert torch.equal(read(1, box), scans[1][box]), name


def test_the_page_has_a_row_each(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(disk, "readers", lambda scans, folder: {"a": lambda number, box: scans[number][box]})
    assert disk.main(["--volumes", "1", "--rounds", "1", "--seconds", "0.01", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "disk.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out.rstrip("\n") + "\n"
    assert "    python -m benchmarks.disk --volumes 1" in text
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:] == ["a"]
