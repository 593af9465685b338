"""``study.yaml`` written, changed by a user, read."""

from __future__ import annotations

import pytest

from custom.study.settings import Settings, StudyError, read, write

SETTINGS = Settings(
    {"t1": "/data/t 1", "flair": "/d/#f"},
    "/data/labels",
    r"^(\d+)_",
    others=("unimatch", "bcp"),
    folds=3,
    half=True,
    steps=600,
    jobs=2,
    budget=480.0,
)


def test_what_is_written_is_read(tmp_path):
    write(tmp_path, SETTINGS)
    assert read(tmp_path) == SETTINGS


def test_each_setting_says_what_it_is(tmp_path):
    text = write(tmp_path, SETTINGS).read_text(encoding="utf-8")
    assert all("#" in line for line in text.splitlines())
    assert "steps: 600 " in text


@pytest.mark.parametrize(("old", "new", "told"), [
    ("steps: 600", "step: 600", r"step is no setting \(did you mean 'steps'\?\)"),
    ("steps: 600", "steps: many", "steps is 'many'; expected a whole number >= 1"),
    ("half: true", "half: 2", "half is 2; expected true or false"),
    ("folds: 3", "folds: 0", "folds is 0; expected a whole number >= 1"),
    ("labels: /data/labels", "", "labels is missing"),
    ("[unimatch, bcp]", "unimatch", r"others is 'unimatch'; expected the names of bundles, \[unimatch, bcp\]"),
    ("[unimatch, bcp]", "[bcp, mean_teacher]", "mean_teacher is named twice; expected different bundles as"),
])  # fmt: skip
def test_a_wrong_change_is_told_by_name(tmp_path, old, new, told):
    path = write(tmp_path, SETTINGS)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new))
    with pytest.raises(StudyError, match=told):
        read(tmp_path)


def test_a_folder_without_a_plan_says_how_to_make_one(tmp_path):
    with pytest.raises(StudyError, match=r"is no study: it has no study.yaml. Plan one first"):
        read(tmp_path)
