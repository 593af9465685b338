"""What says something, and what does not: a helper that finds everything would let every text pass."""

from __future__ import annotations

import pytest
from saying import raises, says

TEXT = "11 scans of 1.5 mm: p1.nii.gz has 3 axes, expected 2. Give --dimensions 3, or remove it"


@pytest.mark.parametrize(
    "parts",
    [
        ("11 scans",),
        ("1.5 mm", "p1.nii.gz", "3 axes", "expected 2", "--dimensions 3"),
        (TEXT,),
        ("3", "3"),
        (": p1", "."),
    ],
)
def test_parts_are_found_in_their_order(parts):
    says(TEXT, *parts)


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        (("1 scans",), "1 scans"),
        (("5 mm",), "5 mm"),
        (("of 1",), "of 1"),
        (("p1", "dimension"), "dimension"),
        (("11 scans", "--dimensions 2", "3 axes"), "--dimensions 2"),
        (("expected 2", "3 axes"), "3 axes"),
        (("3", "3", "3"), "3"),
    ],
)
def test_a_part_that_is_missing_cut_out_of_a_word_or_out_of_order_is_named_beside_the_text(parts, missing):
    with pytest.raises(AssertionError) as caught:
        says(TEXT, *parts)
    text = str(caught.value)
    assert text.startswith(f"{missing!r} is not said")
    assert all(half in text for half in (TEXT[:4], TEXT[-4:]))


@pytest.mark.parametrize("parts", [(), ("",), ("scans", "")])
def test_what_every_text_says_is_not_asked_for(parts):
    with pytest.raises(AssertionError):
        says(TEXT, *parts)


def test_an_error_is_of_its_kind_and_says_its_parts():
    def fail() -> None:
        raise ValueError(TEXT)

    with raises(ValueError, "3 axes", "remove it") as caught:
        fail()
    assert str(caught.value) == TEXT
    with pytest.raises(AssertionError, match="'4 axes' is not said"), raises(ValueError, "4 axes"):
        fail()
    with pytest.raises(ValueError, match="11 scans"), raises(KeyError, "3 axes"):
        fail()
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"), raises(ValueError, "3 axes"):
        pass
