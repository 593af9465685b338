"""The benchmark of patches from disk: every way of reading gives the same voxels; no time is asserted."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import disk


def test_every_way_gives_the_same_patch(tmp_path, monkeypatch, capsys):
    for name in ("zarr", "blosc2"):
        monkeypatch.setitem(sys.modules, name, None)
    scans = disk.volumes(2, (32, 24, 16))
    found = disk.stores(scans, tmp_path)
    assert len(found) == 4
    assert "blosc2 is not installed: left out" in capsys.readouterr().err
    box = (slice(None), slice(3, 9), slice(0, 24), slice(15, 16))
    for name, store in found.items():
        store.forget(1)
        assert torch.equal(store.read(1, box), scans[1][box]), name
        if name != "memory":
            assert len(store.places) == 2, name
            assert store.megabytes == pytest.approx(32 * 24 * 16 * 2 / 1e6, rel=0.2), name


def test_the_page_has_a_row_each(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(disk, "stores", lambda scans, folder: {"a": disk.Store(lambda number, box: scans[number][box])})
    assert disk.main(["--volumes", "1", "--rounds", "1", "--seconds", "0.01", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "disk.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out.rstrip("\n") + "\n"
    assert "    python -m benchmarks.disk --volumes 1" in text
    (row,) = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")][2:]
    assert [bool(cell.strip()) for cell in row] == [True, False, True, True, True, False, False, False]
