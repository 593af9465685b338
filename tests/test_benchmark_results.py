"""What the rows of the benchmark say: statistics over seeds and patients, and what is compared with what."""

import json
import math

import pytest
from benchmark_fixtures import SIZES, cases, lines_of, one_entry, row
from saying import raises

from benchmarks.compare import table
from benchmarks.compare.page import html
from benchmarks.compare.results import change, families, holm, mean_and_sd, read_rows
from custom.evaluation.compare import paired_difference


def test_holm_in_closed_form():
    # 0.01 * 4; 0.02 * 3 = 0.06; 0.03 * 2 = 0.06; 0.9
    assert holm({"a": 0.02, "b": 0.9, "c": 0.01, "d": 0.03}) == pytest.approx(
        {"a": 0.06, "b": 0.9, "c": 0.04, "d": 0.06}
    )


def test_holm_keeps_the_order_and_ends_at_1():
    # 0.02 * 3 = 0.06; 0.025 * 2 = 0.05 may not be less; 0.6 * 1
    assert holm({"a": 0.02, "b": 0.025, "c": 0.6}) == pytest.approx({"a": 0.06, "b": 0.06, "c": 0.6})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_holm_counts_only_tests_that_were_possible():
    found = holm({"a": 0.02, "b": math.nan})
    assert found["a"] == 0.02
    assert math.isnan(found["b"])
    assert holm({}) == {}


def test_mean_and_sd_over_seeds():
    assert mean_and_sd([0.5, 0.7]) == pytest.approx((0.6, math.sqrt(0.02)))
    mean, sd = mean_and_sd([0.5])
    assert mean == 0.5
    assert math.isnan(sd)
    assert all(map(math.isnan, mean_and_sd([])))


def test_one_seed_is_the_paired_difference_of_the_two_tables():
    ours, base = cases([0.6, 0.8, 0.7, 0.9, 0.4, 0.7]), cases([0.5, 0.6, 0.8, 0.7, 0.3, 0.2])
    found, alone = change({0: ours}, {0: base}), paired_difference(ours, base)
    assert found.by_seed == pytest.approx({0: 0.6 / 6 + 0.5 / 6 - 0.1 / 6})
    for key in ("mean", "low", "high", "p", "cases", "patients"):
        assert getattr(found.mean, key) == pytest.approx(getattr(alone, key))


def test_seeds_are_averaged_by_case_and_do_not_count_as_patients():
    base = {seed: cases([0.5] * 6) for seed in (0, 1)}
    ours = {0: cases([0.6, 0.7, 0.8, 0.6, 0.7, 0.8]), 1: cases([0.5, 0.4, 0.5, 0.9, 0.8, 0.7])}
    found = change(ours, base)
    assert found.by_seed == pytest.approx({0: 0.2, 1: (-0.1 + 0.4 + 0.3 + 0.2) / 6})
    means = [0.05, 0.05, 0.15, 0.25, 0.25, 0.25]
    alone = paired_difference(cases([0.5 + mean for mean in means]), cases([0.5] * 6))
    assert (found.mean.cases, found.mean.patients) == (6, 6)
    assert (found.mean.mean, found.mean.low, found.mean.p) == pytest.approx((1 / 6, alone.low, 2 / 2**6))


def test_only_seeds_that_both_have_are_paired():
    found = change({0: cases([0.6] * 3), 1: cases([0.9] * 3)}, {1: cases([0.5] * 3), 2: cases([0.1] * 3)})
    assert found.by_seed == pytest.approx({1: 0.4})
    assert change({0: cases([0.6])}, {1: cases([0.5])}) is None


def test_a_case_whose_label_lacks_the_structure_is_left_out():
    ours, base = cases([math.nan, 0.6]), cases([math.nan, 0.5])
    assert change({0: ours}, {0: base}).mean.mean == pytest.approx(0.1)
    with pytest.raises(ValueError, match="dice_mean is in only one of the two tables for c0"):
        change({0: cases([0.0, 0.6])}, {0: base})


def test_a_column_that_older_rows_lack_is_not_compared():
    assert change({0: cases([0.5])}, {0: cases([0.5], [0.1])}, "boundary_dice") is None


def test_final_is_compared_with_final_and_best_with_best():
    base = row("supervised", None, files={"model": [0.5] * 6, "model_final": [0.2] * 6, "average": [0.9] * 6})
    ours = row("mean_teacher", None, files={"model": [0.6] * 6, "model_final": [0.5] * 6, "student": [0.1] * 6})
    entry = one_entry([base, ours], "mean_teacher")
    assert {file: found.mean.mean for file, found in entry.changes.items()} == pytest.approx(
        {"model_final": 0.3, "model": 0.1}
    )
    assert one_entry([base, ours], "supervised").changes == {}


def test_p_is_corrected_over_the_methods_of_one_task_and_number_of_labels():
    rows = [row("supervised", [0.5] * 6), row("a", [0.6] * 6), row("b", [0.7] * 6)]
    other = [row("supervised", [0.5] * 6, labels="3"), row("a", [0.6] * 6, labels="3")]
    found = {family.labels: family for family in families([*rows, *other], SIZES)}
    assert [entry.holm.get("model_final") for entry in found["7"].entries[1:]] == pytest.approx([4 / 2**6, 4 / 2**6])
    assert found["3"].entries[1].holm == pytest.approx({"model_final": 2 / 2**6, "model": 2 / 2**6})


def test_every_method_stands_on_every_task_and_what_is_missing_is_said():
    rows = [row("supervised", [0.5] * 6), row("a", [0.6] * 6), row("supervised", [0.5] * 6, task="lgg", labels="5")]
    found = families(rows, {"sizes": SIZES["sizes"], "variants": {"b": {"bundle": "a", "tasks": ["acdc"]}}})
    assert [(f.title, [c.name for c in f.entries]) for f in found] == [
        ("screen: acdc, 7 labelled", ["supervised", "a"]),
        ("screen: lgg, 5 labelled", ["supervised", "a"]),
    ]
    text = table.markdown(found)
    assert "| a          |        missing |" in text
    rows += [row("b", [0.5] * 6, bundle="a")]
    found = families(rows, {"sizes": SIZES["sizes"], "variants": {"b": {"bundle": "a", "tasks": ["acdc"]}}})
    assert "| b          | not for this task |" in table.markdown(found)
    assert "not for this task" in html(found)
    assert "missing" in html(found)


def test_tasks_come_in_the_order_of_the_sizes_and_labels_by_number():
    places = [("lgg", "5"), ("acdc", "14"), ("acdc", "7"), ("phantom_9", "")]
    rows = [row("supervised", [0.5] * 3, task=task, labels=labels) for task, labels in places]
    assert [family.title for family in families(rows, SIZES)] == [
        *("screen: acdc, 7 labelled", "screen: acdc, 14 labelled", "screen: lgg, 5 labelled", "screen: phantom_9"),
    ]


def test_methods_of_one_size_do_not_stand_as_missing_in_another():
    sizes = {"sizes": {"screen": {"acdc": {}}, "full": {"acdc": {}}}, "variants": {}}
    rows = [row(name, [0.5] * 6) for name in ("supervised", "a")] + [row("supervised", [0.6] * 6, size="full")]
    found = families(rows, sizes)
    assert [(f.title, [c.name for c in f.entries]) for f in found] == [
        ("screen: acdc, 7 labelled", ["supervised", "a"]),
        ("full: acdc, 7 labelled", ["supervised"]),
    ]
    assert "full: acdc" in html(found)
    assert lines_of(table.summary(found), "`a`")[0][2] == "-"


def test_a_variant_is_compared_with_the_baseline_that_the_sizes_name_file_by_file():
    files = ("model", "model_final", "t1ce_final")
    alone = row("alone", None, bundle="cm", files={file: [0.4 + i / 10] * 6 for i, file in enumerate(files)})
    ours = row("cm", None, files={file: [0.5 + i / 5] * 6 for i, file in enumerate(files)})
    sizes = {
        "sizes": SIZES["sizes"],
        "variants": {"cm": {"bundle": "cm", "baseline": "alone"}, "alone": {"bundle": "cm"}},
    }
    rows = [row("supervised", [0.9] * 6), alone, ours]
    entry = one_entry(rows, "cm", sizes)
    found = {file: round(change.mean.mean, 6) for file, change in entry.changes.items()}
    assert found == {"model": 0.1, "model_final": 0.2, "t1ce_final": 0.3}
    assert set(one_entry(rows, "alone", sizes).changes) == {"model", "model_final"}  # supervised has no t1ce
    assert "- cm is compared with alone" in table.markdown(families(rows, sizes))
    assert "alone, t1ce_final" in html(families(rows, sizes))


def test_rows_of_other_sizes_are_pointed_out():
    rows = [
        row("supervised", [0.5] * 6, overrides={"steps": 4, "patch": [8, 8]}),
        row("a", [0.6] * 6, overrides={"steps": 8, "patch": [8, 8], "keep": "high"}, steps=8),
    ]
    sizes = {"sizes": SIZES["sizes"], "variants": {"a": {"bundle": "a", "overrides": {"keep": "high"}}}}
    assert one_entry(rows, "a", sizes).notes == ["seed 0: other sizes than supervised: steps 8 against 4"]
    said = "- a: seed 0: other sizes than supervised: steps 8 against 4, keep high against not set"
    assert said in table.markdown(families(rows, SIZES))  # an override that the sizes do not name as the variant's


def test_seeds_without_a_partner_of_other_settings_or_with_local_changes_are_pointed_out():
    rows = [
        row("supervised", [0.5] * 6),
        row("a", [0.6] * 6, commit="abc+"),
        row("a", [0.9] * 6, seed=1, overrides={"steps": 5}),
    ]
    entry = one_entry(rows, "a")
    assert entry.notes == [
        "seed 0: made with uncommitted changes of the repository (+)",
        "its seeds were not run with the same settings",
        "seed 1: no row of supervised, so not in the difference",
    ]
    assert entry.changes["model"].by_seed == pytest.approx({0: 0.1})


def test_a_row_on_other_cases_is_named_and_the_rest_of_the_table_stands():
    some = {"model": [0.6] * 6, "model_final": [0.6] * 5}
    rows = [row("supervised", [0.5] * 6), row("a", None, files=some), row("b", [0.7] * 6)]
    entry = one_entry(rows, "a")
    assert list(entry.changes) == ["model"]
    (note,) = entry.notes
    assert note.startswith(
        "model_final cannot be compared with supervised: the two tables hold different cases: only the "
    )
    assert set(one_entry(rows, "b").changes) == {"model", "model_final"}


def test_without_the_baseline_there_is_no_difference():
    assert one_entry([row("a", [0.6] * 6)], "a").notes == ["no row of supervised to compare with"]


def test_hard_cases_are_the_quarter_with_the_least_contrast_of_the_baseline():
    contrasts = [0.9, 0.1, 0.8, 0.2, 0.7, 0.6, 0.5, 0.4]
    base = row("supervised", [0.5] * 8, contrasts=contrasts)
    ours = row("a", [0.6, 0.8, 0.6, 0.8, 0.6, 0.6, 0.6, 0.6], contrasts=contrasts)
    entry = one_entry([base, ours], "a")
    assert (entry.hard["dice_mean"].mean.mean, entry.hard["dice_mean"].mean.cases) == (pytest.approx(0.3), 2)
    assert entry.hard["boundary_dice"].mean.mean == pytest.approx((6 * 0.1 + 2 * 0.3) / 8)
    text = html(families([base, ours], SIZES))
    assert "hard cases (2 with the least contrast)" in text
    assert "hard cases" not in html(families([row("supervised", [0.5] * 8), row("a", [0.6] * 8)], SIZES))


@pytest.mark.parametrize("text", ["{", "[]", '{"seed": 0, "cases": {}}', '{"seed": "x", "cases": {}}'])
def test_a_file_that_is_no_row_is_named(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is not a row of a finished run"):
        read_rows(tmp_path)


def test_two_rows_of_one_run_are_refused(tmp_path):
    for name in "xy":
        (tmp_path / f"{name}.json").write_text(json.dumps(row("a", [0.5])))
    with raises(ValueError, "y.json", "x.json", "one run: screen, acdc, 7, a, 0.", "Delete one of them"):
        read_rows(tmp_path)


def test_a_number_that_is_not_there_is_read_as_such(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(row("a", [None, 0.5])))
    (found,) = read_rows(tmp_path)
    assert math.isnan(found["cases"]["model"][0]["dice_mean"])
