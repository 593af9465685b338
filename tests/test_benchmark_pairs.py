"""Two rows of the comparison against each other."""

from __future__ import annotations

import json

import pytest
from saying import raises

from benchmarks.compare import pairs
from custom.errors import UserError


@pytest.fixture
def rows(tmp_path):
    for name, gain in (("a", 0.0), ("b", 0.02)):
        for seed in (0, 1):
            cases = [
                {"case": f"p{k}", "patient": f"p{k}", "dice_mean": 0.5 + 0.01 * k + gain * (1 + seed)} for k in range(8)
            ]
            file = tmp_path / f"screen_acdc_3_{name}_seed{seed}.json"
            file.write_text(json.dumps({"cases": {"model_final": cases, "model": []}}))
    return tmp_path


def test_each_case_is_paired_with_itself_of_the_same_seed(rows, capsys):
    assert pairs.main(["acdc:3", "a", "b", "--seeds", "0", "1", "--rows", str(rows)]) == 0
    assert capsys.readouterr().out == "b minus a: +3.00 points (3.0 to 3.0), p 0.0078, 8 patients, 2 seed(s)\n"
    assert pairs.main(["acdc:3", "b", "a", "--seeds", "0", "--rows", str(rows)]) == 0
    assert capsys.readouterr().out.startswith("a minus b: -2.00 points (-2.0 to -2.0)")


def test_a_row_that_is_not_there_is_named(rows):
    with raises(UserError, "no row of a with seed 5 on acdc:3.", "Leave the seed out"):
        pairs.difference(rows, "screen", "acdc:3", ("a", "b"), [0, 5])
