"""What the simulated annotator's table says of its rows."""

from __future__ import annotations

import json

import pytest
from saying import says

from benchmarks.annotate.__main__ import ARMS
from benchmarks.annotate.cohort import CohortError, load, of_folders, of_phantom
from benchmarks.annotate.table import PAIRS, answer, draw, markdown, write

RANDOM, TEACHER, INFORMATIVE = "supervised, random", "mean teacher, random", "mean teacher, informative"
DICE = {RANDOM: (0.2, 0.4), TEACHER: (0.3, 0.6), INFORMATIVE: (0.3, 0.5)}  # with one label and with two


def rows(seeds=(0, 1)):
    return [
        {"arm": arm, "seed": seed, "labels": labels, "dice": dice + seed / 100, "replaced": labels == 1}
        for arm, found in DICE.items()
        for seed in seeds
        for labels, dice in enumerate(found, 1)
    ]


def test_the_pairs_are_loops_that_are_run():
    assert {arm for pair in PAIRS for arm in pair} <= set(ARMS)


def test_the_answer_compares_seed_by_seed():
    sentences = answer(rows(), list(DICE)).split("; ")
    overall = ("better with every seed over all numbers of labels", "(+15.0, +15.0 Dice points")
    says(
        sentences[0], f"`{TEACHER}` against `{RANDOM}`", *overall, "better with every seed with 2 labels (+20.0, +20.0)"
    )
    assert "worse with every seed with 2 labels (-10.0, -10.0)" in sentences[1]


def test_one_seed_is_no_difference_that_holds():
    assert "no difference that holds over the seeds" in answer(rows([0]), list(DICE))


def test_the_table_has_mean_spread_and_what_did_not_serve():
    text = markdown(rows(), list(DICE))
    assert "0.205 +- 0.007" in text  # .20 and .21
    assert "supervised, random: 2 of 4" in text


def test_rows_of_all_loops_are_collected(tmp_path):
    for arm in DICE:
        folder = tmp_path / "loops" / arm
        folder.mkdir(parents=True)
        (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows() if r["arm"] == arm))
    write(tmp_path / "loops", tmp_path / "out", list(ARMS))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "annotate.jsonl",
        "annotate.md",
        "annotate.png",
    ]
    assert len((tmp_path / "out/annotate.jsonl").read_text().splitlines()) == 12


def test_without_a_loop_it_says_how_to_run_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*/rows.jsonl. Run the loops first"):
        write(tmp_path, tmp_path / "out", list(ARMS))


def test_the_picture_is_the_same_each_time(tmp_path):
    for name in ("a.png", "b.png"):
        draw(rows(), list(DICE), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_pool_and_held_out_share_no_scan(tmp_path, phantoms):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/phantom_2d").symlink_to(phantoms / "phantom_2d")
    cohort = of_phantom(tmp_path / "data", held_out=2)
    assert (len(cohort.pool), len(cohort.held_out)) == (5, 2)
    assert {c["image"] for c in cohort.pool}.isdisjoint(c["image"] for c in cohort.held_out)
    assert load(cohort.save(tmp_path / "cohort.json")) == cohort


def test_too_few_scans_and_labels_of_other_values_are_refused(tmp_path, phantoms):
    images, labels = phantoms / "phantom_2d/images", phantoms / "phantom_2d/labels"
    task = tmp_path / "task.yaml"
    task.write_text("label_values: [0, 1, 2, 3]\n")
    with pytest.raises(CohortError, match=r"7 images with a label in .*, expected at least 9"):
        of_folders(images, labels, task, pool=6, held_out=3)
    task.write_text("label_values: [0, 255]\n")
    with pytest.raises(CohortError, match=r"label_values are \[0, 255\], expected class indices"):
        of_folders(images, labels, task, pool=1, held_out=1)
