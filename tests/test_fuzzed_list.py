"""Whatever stands in a data list, it ends in one report, never in a traceback."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from custom.cohort import data_list as cohort
from custom.cohort.__main__ import check
from custom.errors import UserError

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["image", "label", "patient", "a.nii.gz", "b.nii.gz", "", ".", "/", "\0", "$__import__('os')", "@x",
                     "%run", "\ud800", "x" * 5000, "../..", "phantom:2d"]),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "patient": st.one_of(TEXTS, VALUES),
        "image": st.one_of(TEXTS, VALUES),
        "label": st.one_of(TEXTS, VALUES),
        "attributes": VALUES,
    },
)
LISTS = st.dictionaries(
    st.one_of(st.sampled_from(["labelled", "unlabelled", "validation", "test", "fingerprint"]), TEXTS),
    st.one_of(st.lists(st.one_of(ENTRIES, VALUES), max_size=4), VALUES),
    max_size=5,
)


@pytest.fixture(scope="module")
def folder() -> Any:
    """Two good scans, so that entries reach the files."""
    with tempfile.TemporaryDirectory() as name:
        for file, seed in (("a.nii.gz", 0), ("b.nii.gz", 1)):
            voxels = np.random.default_rng(seed).integers(0, 2, (4, 5, 3)).astype(np.uint8)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), Path(name) / file)
        yield Path(name)


def outcome(act: Any) -> str:
    """ "fine", or the type of the report; anything except a report propagates."""
    try:
        act()
    except UserError as error:
        return type(error).__name__ if str(error).strip() else pytest.fail("a report without a word")
    return "fine"


def judge(path: Path) -> None:
    outcome(lambda: cohort.read(path))
    outcome(lambda: check([str(path), "--no-record"]))


@EXAMPLES
@given(content=LISTS)
@example(content={"labelled": [{"image": "a.nii.gz", "label": "b.nii.gz", "patient": {"a": []}}]})
@example(content={"labelled": [{"image": ["a.nii.gz"], "label": ["b.nii.gz"]}], "test": [{"image": {"": [1]}}]})
def test_a_list_of_anything_never_ends_in_a_traceback(folder, content):
    path = folder / "list.json"
    path.write_text(json.dumps(content))
    judge(path)


@EXAMPLES
@given(st.one_of(st.binary(max_size=200), VALUES.map(lambda v: json.dumps(v).encode())))
@example(b"[" * 100_000)
@example(b"\xff\xfe{}")
@example(b'{"labelled": ' + b"1" * 5000 + b"}")
def test_a_file_of_anything_never_ends_in_a_traceback(folder, content):
    path = folder / "list.json"
    path.write_bytes(content)
    judge(path)


@EXAMPLES
@given(data=st.data())
def test_a_good_list_with_a_broken_spot_never_ends_in_a_traceback(folder, data):
    good = {
        "labelled": [{"patient": "a", "image": "a.nii.gz", "label": "a.nii.gz"}],
        "unlabelled": [{"patient": "b", "image": {"one": "b.nii.gz"}}],
        "validation": [{"patient": "c", "image": "b.nii.gz", "label": "b.nii.gz", "attributes": {"sex": "f"}}],
        "test": [],
    }
    part = data.draw(st.sampled_from(["labelled", "unlabelled", "validation"]))
    key = data.draw(st.sampled_from(["patient", "image", "label", "attributes"]))
    good[part][0][key] = data.draw(st.one_of(TEXTS, VALUES))  # type: ignore[assignment]
    path = folder / "list.json"
    path.write_text(json.dumps(good))
    judge(path)
