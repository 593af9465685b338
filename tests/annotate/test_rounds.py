"""Who trains, who judges, who stays unlabelled. By the fractions of their names c, d and s are held out (.18, .10, .02);
a, b, g and h are not (.79, .24, .80, .67)."""

from __future__ import annotations

from pathlib import Path

import pytest
from cohort_files import Cohort, noise
from hypothesis import given
from hypothesis import strategies as st
from saying import raises

from annotate.rounds import HELD_OUT, Round, RoundError, fraction, of_studies, plan

NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=3), unique=True)


@pytest.mark.parametrize(("name", "expected"), [("a", 0.791), ("b", 0.243), ("c", 0.182), ("d", 0.096), ("s", 0.017)])
def test_a_fraction_is_the_same_on_every_machine(name: str, expected: float) -> None:
    assert fraction(name) == pytest.approx(expected, abs=5e-4)


def test_a_fifth_of_many_scans_is_held_out() -> None:
    held_out = sum(fraction(f"p{number:04d}") < HELD_OUT for number in range(2000))
    assert 350 < held_out < 450


def test_held_out_scans_judge_and_are_in_no_other_stream() -> None:
    planned = plan("abcdghs", labelled="abcd", learnt="ab", serves=True)
    assert planned == Round(labelled=["a", "b"], validation=["c", "d"], unlabelled=["g", "h"])  # s judges later


def test_without_a_held_out_label_the_smallest_that_nothing_learnt_judges() -> None:
    assert plan("abgh", "abg", learnt="", serves=True) == Round(["a", "g"], ["b"], ["h"])
    assert plan("abgh", "abg", learnt="b", serves=True) == Round(["b", "g"], ["a"], ["h"])


def test_all_but_one_train_where_all_labels_are_held_out() -> None:
    assert plan("cdsa", "cds", learnt="", serves=True) == Round(["c", "d"], ["s"], ["a"])


def test_a_scan_that_was_learnt_never_judges_again() -> None:
    assert plan("acd", "acd", learnt="d", serves=True) == Round(["a", "d"], ["c"], [])


def test_one_label_trains_where_nothing_serves_yet() -> None:
    assert plan("ab", "a", learnt="", serves=False) == Round(["a"], [], ["b"])


@pytest.mark.parametrize(
    ("labelled", "learnt", "serves", "parts"),
    [
        ("", "", True, ["no labelled scan", "Save one", "press Train again"]),
        ("", "", False, ["no labelled scan", "Save one", "press Train again"]),
        ("a", "", True, ["1 labelled scan", "Train needs 2", "one to learn from", "one to judge by"]),
        ("ac", "ac", True, ["all 2 labelled scans were learnt", "none is left to judge by", "Label one more", "Train again"]),
    ],
)  # fmt: skip
def test_refused_in_a_sentence(labelled: str, learnt: str, serves: bool, parts: list[str]) -> None:
    with raises(RoundError, *parts):
        plan("abcd", labelled, learnt, serves)


def test_a_label_without_its_image_is_no_scan() -> None:
    with pytest.raises(RoundError, match="1 labelled scan"):
        plan("a", "ab", learnt="", serves=True)


@given(NAMES, NAMES, NAMES, st.booleans())
def test_no_scan_is_in_two_streams_and_no_judge_was_learnt(
    images: list[str], labelled: list[str], learnt: list[str], serves: bool
) -> None:
    try:
        planned = plan(images, labelled, learnt, serves)
    except RoundError:
        return
    streams = [planned.labelled, planned.validation, planned.unlabelled]
    assert len({name for stream in streams for name in stream}) == sum(map(len, streams))
    assert set(planned.labelled) | set(planned.validation) == set(images) & set(labelled)
    assert not set(planned.validation) & set(learnt)
    assert planned.labelled
    assert planned.validation or not serves


@given(NAMES, st.data())
def test_a_round_does_not_depend_on_the_order_of_the_datastore(images: list[str], data: st.DataObject) -> None:
    labelled = data.draw(st.permutations(images))[: len(images) // 2 + 2]
    if len(labelled) < 2:
        return
    assert plan(images, labelled, "", True) == plan(images[::-1], labelled[::-1], "", True)


def test_one_scan_in_two_places_is_told_in_words_of_a_folder(tmp_path: Path) -> None:
    """The app's user has no entries to remove, and no setting shared_scans."""
    cohort = Cohort(tmp_path)
    for copy, of in (("p3", "p1"), ("p4", "p2")):  # unlabelled and labelled, validation and labelled
        cohort.write(f"images/{copy}.nii.gz", noise(of))
    found = of_studies("\n".join(cohort.faults()))
    assert found.count("Take one of the two images, and its label, out of the studies") == 2
    assert "shared_scans" not in found
    assert "Remove" not in found
    assert "p3.nii.gz holds the same image as p1.nii.gz of labelled, p1" in found
