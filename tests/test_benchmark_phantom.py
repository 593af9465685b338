"""When a phantom is fit for showing what unlabelled scans bring: `python -m benchmarks.phantom criterion`."""

from __future__ import annotations

import pytest
from saying import says

from benchmarks import phantom

CASES = [f"p{i}" for i in range(8)]


def gaps(*values: float) -> dict[str, float]:
    return dict(zip(CASES, values, strict=True))


def names(*values: float | str) -> dict[str, float | str]:
    return dict(zip(CASES, values, strict=True))


def test_a_kind_with_all_of_the_gap_explains_all_of_it():
    assert phantom.explained(gaps(40, 40, 0, 0, 0, 0, 0, 0), names(*"aabbbbbb")) == (1.0, "a")


def test_an_even_gap_is_explained_by_nothing():
    assert phantom.explained(gaps(*[10] * 8), names(*"aabbccdd"))[0] == pytest.approx(0)
    assert phantom.explained(gaps(*[10] * 8), names(*range(8)))[0] == pytest.approx(0)


def test_of_numbers_it_is_the_worst_quarter():
    share, group = phantom.explained(gaps(20, 10, 10, 20, 10, 10, 10, 10), names(7, 1, 2, 8, 3, 4, 5, 6))
    assert group == "7 to 8"
    assert share == pytest.approx(1 - 10 / 12.5)


def test_more_than_half_of_the_cases_are_no_group():
    assert phantom.explained(gaps(20, 20, 20, 20, 20, 0, 0, 0), names(*"aaaaabbb")) == (0.0, "no group")


def test_the_report_names_each_seed_the_mean_and_every_attribute(tmp_path, monkeypatch, capsys):
    from custom import phantom as cohort

    drawn = cohort.draw(
        "2d", tmp_path / "data/phantom_2d", patients={"labelled": 1, "unlabelled": 1, "validation": 1, "test": 8}
    )
    assert drawn.is_file()
    dice = {"few": [0.5] * 8, "all": [0.6] * 7 + [0.7]}
    monkeypatch.setattr(phantom, "train_and_evaluate", lambda name, out, **_: out)
    monkeypatch.setattr(
        phantom, "scores",
        lambda run, file: [{"patient": f"p{3 + i:03d}", "dice_mean": d} for i, d in enumerate(dice[run.name.split("_")[1]])],
    )  # fmt: skip
    phantom.criterion(tmp_path, "2d", [0, 1])
    first, second, mean, *attributes, last = capsys.readouterr().out.splitlines()
    assert first == "seed 0: few labels 0.500, all labels 0.612: 11.2 Dice points"
    assert second.startswith("seed 1")
    assert mean == "mean 11.2 Dice points (at least the 10 asked for)"
    assert any(line.split(":")[0].endswith("  noise") for line in attributes)
    says(last, "the worst group", "11% of the gain", "at most the 33%")
