import copy
import csv
import io
import json
import math
import stat
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.compare import __main__ as command
from benchmarks.compare import runs, table
from benchmarks.compare.page import page
from benchmarks.compare.results import change, families, holm, mean_and_sd, read_rows
from custom.evaluation.compare import paired_difference
from custom.run.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = ROOT / "bundles"
SIZES = {"tasks": {"acdc": {}, "lgg": {}}, "variants": {}}
FILES = ("model", "model_final")


def cases(dices, contrasts=None, **more):
    found = [
        {"case": f"c{i}", "patient": f"p{i}", "dice_A": d, "dice_mean": d, "hd95_mm_mean": 2.0, "failures": 0, **more}
        for i, d in enumerate(dices)
    ]
    for case, value in zip(found, contrasts or [], strict=False):
        case |= {"contrast": value, "boundary_dice": case["dice_mean"]}
    return found


def summary(of):
    known = [case["dice_mean"] for case in of if case["dice_mean"] is not None]
    metrics = {"dice_mean": {"mean": sum(known) / len(known)}, "hd95_mm_mean": {"mean": 2.0}}
    if "boundary_dice" in of[0]:
        metrics["boundary_dice"] = {"mean": sum(case["boundary_dice"] for case in of) / len(of)}
    return {"cases": len(of), "patients": len(of), "failures": sum(case["failures"] for case in of), "metrics": metrics}


def row(name, dices, task="acdc", labels="7", seed=0, files=None, contrasts=None, **more):
    """A finished run whose every file of weights scored so on its cases, unless ``files`` tells them apart."""
    found = {file: cases(values, contrasts) for file, values in (files or dict.fromkeys(FILES, dices)).items()}
    return {
        "task": task, "labels": labels, "name": name, "bundle": name, "seed": seed, "overrides": {"steps": 4}, "steps": 4,
        "date": "2026-11-22", "commit": "abc", "machine": "2 cores", "versions": {"torch": "2.13.0"}, "seconds": 120.0,
        "validation_seconds": 30.0, "peak_mb": 100, "served_as": {"model": "network", "other": "teacher"},
        "best_in_validation": {"score": 0.5, "epoch": 2},
        "validation": [{"step": 2, "network/dice_mean": 0.25}, {"step": 4, "network/dice_mean": 0.5}],
        "networks": {file: summary(of) for file, of in found.items()}, "cases": found, **more,
    }  # fmt: skip


def one_cell(rows, name, sizes=SIZES, place=0):
    return next(cell for cell in families(rows, sizes)[place].cells if cell.name == name)


# ----------------------------------------------------------------------------------------------------------- statistics
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
    found, told = change({0: ours}, {0: base}), paired_difference(ours, base)
    assert found.by_seed == pytest.approx({0: 0.6 / 6 + 0.5 / 6 - 0.1 / 6})
    for key in ("mean", "low", "high", "p", "cases", "patients"):
        assert getattr(found.mean, key) == pytest.approx(getattr(told, key))


def test_seeds_are_averaged_by_case_and_do_not_count_as_patients():
    base = {seed: cases([0.5] * 6) for seed in (0, 1)}
    ours = {0: cases([0.6, 0.7, 0.8, 0.6, 0.7, 0.8]), 1: cases([0.5, 0.4, 0.5, 0.9, 0.8, 0.7])}
    found = change(ours, base)
    assert found.by_seed == pytest.approx({0: 0.2, 1: (-0.1 + 0.4 + 0.3 + 0.2) / 6})
    means = [0.05, 0.05, 0.15, 0.25, 0.25, 0.25]
    told = paired_difference(cases([0.5 + mean for mean in means]), cases([0.5] * 6))
    assert (found.mean.cases, found.mean.patients) == (6, 6)
    assert (found.mean.mean, found.mean.low, found.mean.p) == pytest.approx((1 / 6, told.low, 2 / 2**6))


def test_only_seeds_that_both_have_are_paired():
    found = change({0: cases([0.6] * 3), 1: cases([0.9] * 3)}, {1: cases([0.5] * 3), 2: cases([0.1] * 3)})
    assert found.by_seed == pytest.approx({1: 0.4})
    assert change({0: cases([0.6])}, {1: cases([0.5])}) is None


def test_a_false_find_costs_what_it_does_in_custom_compare():
    """Where the structure is not there, the one that rightly found nothing counts as 1; one without both is left out."""
    ours, base = cases([0.0, math.nan, 0.6]), cases([math.nan, math.nan, 0.5])
    assert change({0: ours}, {0: base}).mean.mean == pytest.approx((-1 + 0.1) / 2)
    again = change({0: ours, 1: cases([0.5, 0.5, 0.6])}, {0: base, 1: cases([0.5, 0.4, 0.5])})
    assert again.mean.mean == pytest.approx(((-1 + 0) / 2 + 0.1 + 0.1) / 3)  # the middle case has one seed


def test_a_column_that_older_rows_lack_is_not_compared():
    assert change({0: cases([0.5])}, {0: cases([0.5], [0.1])}, "boundary_dice") is None


# ---------------------------------------------------------------------------------------------------------------- cells
def test_final_is_compared_with_final_and_best_with_best():
    base = row("supervised", None, files={"model": [0.5] * 6, "model_final": [0.2] * 6, "average": [0.9] * 6})
    ours = row("mean_teacher", None, files={"model": [0.6] * 6, "model_final": [0.5] * 6, "student": [0.1] * 6})
    cell = one_cell([base, ours], "mean_teacher")
    assert {file: found.mean.mean for file, found in cell.changes.items()} == pytest.approx(
        {"model_final": 0.3, "model": 0.1}
    )
    assert one_cell([base, ours], "supervised").changes == {}


def test_p_is_corrected_over_the_methods_of_one_task_and_number_of_labels():
    rows = [row("supervised", [0.5] * 6), row("a", [0.6] * 6), row("b", [0.7] * 6)]
    other = [row("supervised", [0.5] * 6, labels="3"), row("a", [0.6] * 6, labels="3")]
    found = {family.labels: family for family in families([*rows, *other], SIZES)}
    assert [cell.holm.get("model_final") for cell in found["7"].cells[1:]] == pytest.approx([4 / 2**6, 4 / 2**6])
    assert found["3"].cells[1].holm == pytest.approx({"model_final": 2 / 2**6, "model": 2 / 2**6})


def test_every_method_stands_on_every_task_and_what_is_missing_is_said():
    rows = [row("supervised", [0.5] * 6), row("a", [0.6] * 6), row("supervised", [0.5] * 6, task="lgg", labels="5")]
    found = families(rows, {"tasks": SIZES["tasks"], "variants": {"b": {"bundle": "a", "tasks": ["acdc"]}}})
    assert [(f.title, [c.name for c in f.cells]) for f in found] == [
        ("acdc, 7 labelled", ["supervised", "a"]),
        ("lgg, 5 labelled", ["supervised", "a"]),
    ]
    text = table.markdown(found)
    assert "| a          |        missing |" in text
    rows += [row("b", [0.5] * 6, bundle="a")]
    found = families(rows, {"tasks": SIZES["tasks"], "variants": {"b": {"bundle": "a", "tasks": ["acdc"]}}})
    assert "| b          | not for this task |" in table.markdown(found)
    assert "not for this task" in page(found)
    assert "missing" in page(found)


def test_tasks_come_in_the_order_of_the_sizes_and_labels_by_number():
    places = [("lgg", "5"), ("acdc", "14"), ("acdc", "7"), ("phantom_9", "")]
    rows = [row("supervised", [0.5] * 3, task=task, labels=labels) for task, labels in places]
    assert [family.title for family in families(rows, SIZES)] == [
        *("acdc, 7 labelled", "acdc, 14 labelled", "lgg, 5 labelled", "phantom_9"),
    ]


def test_a_variant_is_compared_with_the_baseline_that_the_sizes_name_file_by_file():
    files = ("model", "model_final", "t1ce_final")
    alone = row("alone", None, bundle="cm", files={file: [0.4 + i / 10] * 6 for i, file in enumerate(files)})
    ours = row("cm", None, files={file: [0.5 + i / 5] * 6 for i, file in enumerate(files)})
    sizes = {
        "tasks": SIZES["tasks"],
        "variants": {"cm": {"bundle": "cm", "baseline": "alone"}, "alone": {"bundle": "cm"}},
    }
    rows = [row("supervised", [0.9] * 6), alone, ours]
    cell = one_cell(rows, "cm", sizes)
    found = {file: round(change.mean.mean, 6) for file, change in cell.changes.items()}
    assert found == {"model": 0.1, "model_final": 0.2, "t1ce_final": 0.3}
    assert set(one_cell(rows, "alone", sizes).changes) == {"model", "model_final"}  # supervised has no t1ce
    assert "- cm is compared with alone" in table.markdown(families(rows, sizes))
    assert "alone, t1ce_final" in page(families(rows, sizes))


def test_rows_of_other_sizes_are_pointed_out():
    rows = [
        row("supervised", [0.5] * 6, overrides={"steps": 4, "patch": [8, 8]}),
        row("a", [0.6] * 6, overrides={"steps": 8, "patch": [8, 8], "keep": "high"}, steps=8),
    ]
    sizes = {"tasks": SIZES["tasks"], "variants": {"a": {"bundle": "a", "overrides": {"keep": "high"}}}}
    assert one_cell(rows, "a", sizes).notes == ["seed 0: other sizes than supervised: steps 8 against 4"]
    said = "- a: seed 0: other sizes than supervised: steps 8 against 4, keep high against not set"
    assert said in table.markdown(families(rows, SIZES))  # an override that the sizes do not name as the variant's


def test_seeds_without_a_partner_of_other_settings_or_with_local_changes_are_pointed_out():
    rows = [
        row("supervised", [0.5] * 6),
        row("a", [0.6] * 6, commit="abc+"),
        row("a", [0.9] * 6, seed=1, overrides={"steps": 5}),
    ]
    cell = one_cell(rows, "a")
    assert cell.notes == [
        "seed 0: made with uncommitted changes of the repository (+)",
        "its seeds were not run with the same settings",
        "seed 1: no row of supervised, so not in the difference",
    ]
    assert cell.changes["model"].by_seed == pytest.approx({0: 0.1})


def test_a_row_on_other_cases_is_named_and_the_rest_of_the_table_stands():
    some = {"model": [0.6] * 6, "model_final": [0.6] * 5}
    rows = [row("supervised", [0.5] * 6), row("a", None, files=some), row("b", [0.7] * 6)]
    cell = one_cell(rows, "a")
    assert list(cell.changes) == ["model"]
    (note,) = cell.notes
    assert note.startswith(
        "model_final cannot be compared with supervised: the two tables hold different cases: only the "
    )
    assert set(one_cell(rows, "b").changes) == {"model", "model_final"}


def test_without_the_baseline_there_is_no_difference():
    assert one_cell([row("a", [0.6] * 6)], "a").notes == ["no row of supervised to compare with"]


def test_hard_cases_are_the_quarter_with_the_least_contrast_of_the_baseline():
    contrasts = [0.9, 0.1, 0.8, 0.2, 0.7, 0.6, 0.5, 0.4]
    base = row("supervised", [0.5] * 8, contrasts=contrasts)
    ours = row("a", [0.6, 0.8, 0.6, 0.8, 0.6, 0.6, 0.6, 0.6], contrasts=contrasts)
    cell = one_cell([base, ours], "a")
    assert (cell.hard["dice_mean"].mean.mean, cell.hard["dice_mean"].mean.cases) == (pytest.approx(0.3), 2)
    assert cell.hard["boundary_dice"].mean.mean == pytest.approx((6 * 0.1 + 2 * 0.3) / 8)
    text = page(families([base, ours], SIZES))
    assert "hard cases (2 with the least contrast)" in text
    assert "hard cases" not in page(families([row("supervised", [0.5] * 8), row("a", [0.6] * 8)], SIZES))


# --------------------------------------------------------------------------------------------------------------- tables
def three_seeds():
    rows = [row("supervised", [0.5] * 6, seed=seed) for seed in range(3)]
    return [*rows, *(row("a", [0.6 + 0.1 * seed] * 6, seed=seed) for seed in range(3)), row("b", [0.4] * 6)]


def lines_of(text, name):
    return [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith(f"| {name} ")
    ]


def test_markdown_gives_mean_sd_and_number_of_seeds():
    text = table.markdown(families(three_seeds(), SIZES))
    (a,), (b,) = lines_of(text, "a"), lines_of(text, "b")
    assert a == [
        *("a", "0.700 +- 0.100", "+20.0", "+20.0 to +20.0", "0.031", "0.062"),  # Holm: two methods
        *("0.700 +- 0.100", "+20.0", "+20.0 to +20.0", "0.062", "2.0", "0", "3", "2.0", "100"),
    ]
    assert b[1:3] == ["0.400 (1 seed)", "-10.0"]
    assert b[12] == "1"


def test_csv_has_a_line_a_file_of_weights_and_one_for_what_is_missing():
    rows = [*three_seeds(), row("supervised", [0.5] * 6, task="lgg", labels="5")]
    lines = list(csv.DictReader(io.StringIO(table.csv_text(families(rows, SIZES)))))
    a = next(line for line in lines if (line["name"], line["weights"]) == ("a", "model_final"))
    assert float(a["dice"]) == pytest.approx(0.7)
    assert float(a["difference"]) == pytest.approx(0.2)
    assert float(a["difference_sd"]) == pytest.approx(0.1)
    assert (a["seeds"], a["which_seeds"], a["network"], a["baseline"]) == ("3", "0 1 2", "network", "supervised")
    assert (a["seconds"], a["validation_seconds"], a["peak_mb"], a["commits"]) == ("120.0", "30.0", "100", "abc")
    missing = [line["name"] for line in lines if line["seeds"] == "0"]
    assert missing == ["a", "b"]
    assert len(lines) == 2 * 3 + 2 + 2  # of acdc; of lgg


class Checked(HTMLParser):
    """Raises where a tag is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.addresses = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for key, value in attributes if key in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_whole_fetches_nothing_and_holds_every_run():
    rows = three_seeds()
    source = page(families(rows, SIZES))
    checked = Checked(source)
    text = " ".join(" ".join(checked.text).split())
    assert all(address.startswith("#") for address in checked.addresses)
    assert "7 runs." in text
    assert "0: +10.0, 1: +20.0, 2: +30.0" in text
    for words in (
        "difference, Dice points; dashed: the baseline",
        "validation Dice",
        "minutes a run",
        "abc",
        "2026-11-22",
    ):
        assert words in text
    assert source.count("<svg") == 3
    assert source == page(families(copy.deepcopy(rows), SIZES))


def test_page_of_nothing_is_a_page():
    assert "0 runs." in page(families([], SIZES))


def test_the_summary_is_compact_and_marks_what_survives_the_correction():
    rows = [row("supervised", [0.5] * 8), row("a", [0.6] * 8), row("b", [0.6, 0.4] * 4)]
    rows.append(row("supervised", [0.5] * 5, task="lgg", labels="5"))
    rows.append(row("b", [0.6] * 5, task="lgg", labels="5"))
    text = table.summary(families(rows, SIZES))
    (a,), (b,) = lines_of(text, "`a`"), lines_of(text, "`b`")
    assert a[1:] == ["0.600; +10.0\\* (+10.0 to +10.0); 1 seed", "missing"]  # 2 / 2**8 twice
    assert b[1].startswith("0.500; 0.0 (")
    assert b[2] == "0.600; +10.0 (+10.0 to +10.0); 1 seed"
    assert lines_of(text, "method")[0][1:] == ["acdc, 7 labelled", "lgg, 5 labelled"]


def test_the_summary_stands_between_the_markers_and_can_be_written_again():
    text = "before\n<!-- compare -->\nold\n<!-- /compare -->\nafter\n"
    once = table.with_block(text, "new", "results.md")
    assert once == "before\n<!-- compare -->\nnew\n<!-- /compare -->\nafter\n"
    assert table.with_block(once, "new", "results.md") == once


@pytest.mark.parametrize("text", ["", "<!-- compare -->", "<!-- /compare --><!-- compare -->"])
def test_a_page_without_markers_is_refused(text):
    with pytest.raises(
        ValueError, match=r"results\.md needs the lines <!-- compare --> and <!-- /compare --> once each"
    ):
        table.with_block(text, "new", "results.md")


@pytest.mark.parametrize("text", ["{", "[]", '{"seed": 0, "cases": {}}', '{"seed": "x", "cases": {}}'])
def test_a_file_that_is_no_row_is_named(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is no row of a finished run"):
        read_rows(tmp_path)


def test_two_rows_of_one_run_are_refused(tmp_path):
    for name in "xy":
        (tmp_path / f"{name}.json").write_text(json.dumps(row("a", [0.5])))
    with pytest.raises(
        ValueError, match=r"y\.json and .*x\.json are rows of one run: acdc, 7, a, 0\. Delete one of them"
    ):
        read_rows(tmp_path)


def test_a_number_that_is_not_there_is_read_as_such(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(row("a", [None, 0.5])))
    (found,) = read_rows(tmp_path)
    assert math.isnan(found["cases"]["model"][0]["dice_mean"])


# ------------------------------------------------------------------------------------------------------- runs of phantoms
TINY = ("steps: 4, epoch_steps: 2, val_interval: 1, labelled_batch: 2, unlabelled_batch: 2, patch: [32, 32], "
        "widths: [4, 8], dropout: [0.0, 0.1], workers: 0, amp: 'off'")  # fmt: skip


@pytest.fixture
def bench(tmp_path, phantoms, run_bundle, monkeypatch):
    """``bench(*arguments)`` is the command on tiny phantoms, its runs in this process; ``bench.calls`` are these."""
    (tmp_path / "sizes.yaml").write_text(
        f"tasks:\n  phantom_2d: {{{TINY}}}\nvariants:\n  slow: {{bundle: mean_teacher, overrides: {{ema_decay: 0.5}}}}\n"
    )
    calls = []

    def in_process(bundle, run_id, files, told, folder, deadline):
        calls.append((bundle, run_id, told["resume"] if run_id == "training" else None))
        run_bundle(BUNDLES / bundle, run_id, files, **{**told, "output_dir": str(folder), "dataset_dir": str(phantoms)})
        return 100

    def bench(*arguments):
        where = [f"--{name}={tmp_path / name}" for name in ("output", "rows", "out")]
        return command.main(
            [f"--sizes={tmp_path / 'sizes.yaml'}", f"--lists={phantoms}", *where, "--tasks", "phantom_2d", *arguments]
        )

    monkeypatch.setattr(runs, "_command", in_process)
    bench.calls, bench.folder, bench.sizes = calls, tmp_path, tmp_path / "sizes.yaml"
    return bench


def test_two_cells_of_the_phantom_become_rows_and_a_table(bench, capsys):
    assert bench("--bundles", "supervised", "slow") == 0
    found = {path.name for path in (bench.folder / "rows").iterdir()}
    assert found == {"phantom_2d_supervised_seed0.json", "phantom_2d_slow_seed0.json"}
    rows = {r["name"]: r for r in read_rows(bench.folder / "rows")}
    assert rows["slow"]["bundle"] == "mean_teacher"
    assert (rows["slow"]["overrides"]["ema_decay"], rows["slow"]["steps"], rows["slow"]["peak_mb"]) == (0.5, 4, 100)
    assert [entry["step"] for entry in rows["supervised"]["validation"]] == [2, 4]
    assert all(math.isfinite(case["contrast"]) for case in rows["supervised"]["cases"]["model_final"])
    assert {"dice_mean", "hd95_mm_mean", "boundary_dice"} <= rows["slow"]["cases"]["model"][0].keys()
    text = (bench.folder / "out/compare.md").read_text()
    assert len(lines_of(text, "slow")) == 1
    assert "other sizes" not in text
    assert capsys.readouterr().out.count("test Dice") == 2
    calls = list(bench.calls)
    assert bench("--bundles", "supervised", "slow") == 0  # nothing is missing
    assert bench.calls == calls == [
        *(("supervised", "training", False), ("supervised", "run", None)),
        *(("mean_teacher", "training", False), ("mean_teacher", "run", None)),
    ]  # fmt: skip


def test_a_command_that_fails_is_reported_and_the_others_go_on(bench, monkeypatch, capsys):
    def fails(bundle, *_):
        raise RuntimeError(f"training ended with 1: {bundle}")

    monkeypatch.setattr(runs, "_command", fails)
    assert bench("--bundles", "supervised", "mean_teacher") == 1
    said = capsys.readouterr().err
    for name in ("supervised", "mean_teacher"):
        assert f"not done: phantom_2d_{name}_seed0: RuntimeError: training ended with 1: {name}" in said


def test_the_end_of_the_budget_keeps_what_was_used_and_continue_resumes(bench, monkeypatch, capsys):
    told = []

    def stopped(bundle, run_id, files, settings, folder, deadline):
        told.append((run_id, settings["resume"]))
        (folder / "last_0001.pt").touch()
        raise runs.OutOfTime(300 - 100 * len(told))

    monkeypatch.setattr(runs, "revision", lambda: f"commit{len(told)}")
    monkeypatch.setattr(runs, "_command", stopped)
    for go_on in ([], ["--continue"], []):
        assert bench("--bundles", "supervised", *go_on) == 1
    assert told == [("training", False), ("training", True), ("training", False)]
    assert "phantom_2d_supervised_seed0: the budget ended in it, --continue goes on" in capsys.readouterr().err
    assert not list((bench.folder / "rows").glob("*"))


def test_what_several_calls_used_is_kept_together(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "revision", lambda: "a")
    runs._keep_cost(tmp_path, 200, {})
    monkeypatch.setattr(runs, "revision", lambda: "b+")
    runs._keep_cost(tmp_path, 100, json.loads((tmp_path / "cost.json").read_text()))
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert (cost["peak_mb"], cost["commit"]) == (200, "a b+")


def test_no_time_left_starts_nothing(bench, capsys):
    assert bench("--bundles", "supervised", "--budget", "0s") == 1
    assert bench.calls == []
    assert "not done: phantom_2d_supervised_seed0: no time left" in capsys.readouterr().err


def test_a_run_that_another_call_has_is_skipped(bench, capsys):
    with RunFolder(bench.folder / "output/phantom_2d_supervised_seed0/compare"):
        assert bench("--bundles", "supervised") == 1
    assert bench.calls == []
    assert "phantom_2d_supervised_seed0: skipped. output_dir" in capsys.readouterr().err


def test_the_table_alone_runs_nothing_and_fills_the_page(bench):
    (bench.folder / "rows").mkdir()
    for one in (row("supervised", [0.5] * 6), row("a", [0.6] * 6)):
        (bench.folder / f"rows/{one['name']}.json").write_text(json.dumps(one))
    results = bench.folder / "results.md"
    results.write_text("<!-- compare -->\n<!-- /compare -->\n")
    assert bench("--table", "--docs", str(results)) == 0
    assert bench.calls == []
    assert {path.name for path in (bench.folder / "out").iterdir()} == {"compare.md", "compare.csv", "compare.html"}
    assert "| `a` " in results.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "brats:3"], "task brats: the sizes name phantom_2d"),
        (["--bundles", "nothing"], "no bundle or variant nothing: there are"),
        (["--table", "--docs", "NOWHERE.md"], "No such file"),
    ],
)
def test_mistakes_are_said_in_a_sentence(arguments, said, bench, capsys):
    assert bench(*arguments) == 2
    assert said in capsys.readouterr().err


def test_a_variant_that_is_not_for_a_task_is_left_out(bench, capsys):
    bench.sizes.write_text("tasks: {phantom_2d: }\nvariants: {few: {bundle: supervised, tasks: [lgg]}}\n")
    assert bench("--bundles", "few") == 0
    assert "phantom_2d_few_seed0: left out, few is not for this task" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("variants: {}", "needs tasks"),
        (
            "tasks: {a: {}}\nvariants: {b: {overrides: {}}}",
            "variant b is .* It needs bundle, and may have overrides, base",
        ),
        ("tasks: {a: {}}\nvariants: {b: {bundle: c, basline: d}}", "variant b is"),
    ],
)
def test_sizes_that_cannot_be_read_are_refused(text, said, tmp_path):
    (tmp_path / "sizes.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        runs.read_sizes(tmp_path / "sizes.yaml")


def test_the_sizes_of_this_repository_name_bundles_and_tasks_that_there_are():
    sizes = runs.read_sizes()
    for name, variant in sizes["variants"].items():
        assert (BUNDLES / variant["bundle"] / "configs/train.yaml").is_file(), name
        baseline = variant.get("baseline", "supervised")
        assert baseline in sizes["variants"] or (BUNDLES / baseline).is_dir(), name
        assert set(variant.get("tasks", [])) <= set(sizes["tasks"]), name
    assert all((ROOT / "custom/tasks" / f"{task}.yaml").is_file() for task in sizes["tasks"])


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("150m", 9000), ("2h", 7200), ("1.5", 90)])
def test_a_budget_is_a_time(text, expected):
    assert command.seconds(text) == expected


def test_a_budget_that_is_no_time_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["--budget", "long"])
    assert "'long' is no time: write 90s, 150m or 2h" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- the child process
def child(text):
    started = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
    started.stdout.readline()  # it is there
    return started


def test_a_child_that_ends_in_time_tells_its_memory():
    assert runs._wait(child("print()"), math.inf).ru_maxrss > 1000


def test_a_child_is_asked_to_stop_at_the_deadline():
    with pytest.raises(runs.OutOfTime) as caught:
        runs._wait(child("import time; print(flush=True); time.sleep(60)"), time.monotonic())
    assert caught.value.peak_mb > 1


def test_a_child_that_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr(runs, "_GRACE", 0.1)
    deaf = child("import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)")
    with pytest.raises(runs.OutOfTime):
        runs._wait(deaf, time.monotonic())
    assert deaf.returncode == -9


def test_a_failed_command_shows_the_end_of_its_log(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "$@"\npwd\nexit 3\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(RuntimeError, match=r"training ended with 3; the end of .*log\.txt") as caught:
        runs._command("supervised", "training", ["a.yaml", "b.yaml"], {"steps": 4}, tmp_path, math.inf)
    assert "-m monai.bundle run training --config_file ['a.yaml','b.yaml'] --steps=4" in str(caught.value)
    assert str(caught.value).strip().endswith("bundles/supervised")


def test_revision_marks_files_that_differ_from_the_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    assert runs.revision() == ""  # no repository
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *arguments], check=True)
    clean = runs.revision()
    assert len(clean) == 10
    (tmp_path / "file").write_text("2")
    assert runs.revision() == f"{clean}+"
