"""The benchmark of growth: which cells there are, what a cell holds, the page and its plot; no time is asserted."""

from __future__ import annotations

import pytest

from benchmarks import growth


def test_a_cell_starts_from_files_and_then_from_its_cache(tmp_path):
    spec = {**growth.CELL, "scans": 12, "side": 32, "share": 0.0, "folder": str(tmp_path), "steps": 1}
    first, later = growth.measure(spec), growth.measure(spec)
    assert first["bytes"] == later["bytes"] == 12 * 32 * 32 * 2
    assert len(list((tmp_path / "cache_32_2").rglob("*.scan"))) == 12
    assert {"start", "batch", "step", "held", "bytes"} == set(later)


def test_one_thing_grows_at_a_time():
    options = growth._parser().parse_args(["--scans", "100", "1000", "--sides", "64^3", "--classes", "9"])
    assert [(c["scans"], c["side"], c["axes"], c["classes"], c["share"]) for c in growth.cells(options)] == [
        (100, 64, 2, 4, 0.0), (100, 64, 2, 4, 1.0), (1000, 64, 2, 4, 0.0), (1000, 64, 2, 4, 1.0), (100, 64, 3, 4, 0.0),
        (100, 64, 2, 9, 0.0),
    ]  # fmt: skip


def test_the_page_and_the_plot(tmp_path, monkeypatch, capsys):
    def found(spec):
        return {"start": spec["scans"] / 100, "batch": 0.002, "step": 0.02, "held": 3e6, "bytes": 5e6}

    monkeypatch.setattr(growth, "run", found)
    assert growth.main(["--scans", "100", "2000", "--sides", "--classes", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "growth.md").read_text(encoding="utf-8")
    assert "    python -m benchmarks.growth --scans 100 2000" in text
    [row] = [line for line in text.splitlines() if "2,000" in line and "on disk" in line]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "2,000", "64 x 64", "4", "on disk", "20.0", "20.00", "2.0", "20.0", "3", "5.0"
    ]  # fmt: skip
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.slow
def test_a_cell_is_a_process_of_its_own(tmp_path):
    spec = {**growth.CELL, "scans": 10, "side": 16, "share": 1.0, "folder": str(tmp_path), "steps": 1}
    assert growth.run(spec)["bytes"] == 10 * 16 * 16 * 2


@pytest.mark.parametrize(("text", "side"), [("64", (2, 64)), ("160^3", (3, 160))])
def test_sides(text, side):
    assert growth._side(text) == side
