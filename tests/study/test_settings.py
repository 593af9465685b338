"""``study.yaml`` written, changed by a user, read."""

from __future__ import annotations

from dataclasses import replace

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


@pytest.mark.parametrize(("old", "new", "message"), [
    ("steps: 600", "step: 600", r"step is not a setting \(did you mean 'steps'\?\)"),
    ("steps: 600", "steps: many", "steps is 'many'; expected a whole number >= 1"),
    ("half: true", "half: 2", "half is 2; expected true or false"),
    ("folds: 3", "folds: 0", "folds is 0; expected a whole number >= 1"),
    ("labels: /data/labels", "", "labels is missing"),
    ("[unimatch, bcp]", "unimatch", r"others is 'unimatch'; expected the names of bundles, \[unimatch, bcp\]"),
    ("[unimatch, bcp]", "[bcp, mean_teacher]", "mean_teacher is named twice; expected different bundles as"),
    ("method: mean_teacher", "method: mean_techer",
     r"method: there is no bundle 'mean_techer' \(did you mean 'mean_teacher'\?\); there are bcp, .*urpc"),
    ("baseline: supervised", "baseline: none", "baseline: there is no bundle 'none'; there are bcp, "),
    ("[unimatch, bcp]", "[unimatsch]", r"others: there is no bundle 'unimatsch' \(did you mean 'unimatch'\?\); there are"),
    ("overrides: {}", "overrides: {mean_techer: {ema_decay: 0.9}}",
     r"overrides: there is no bundle 'mean_techer' \(did you mean 'mean_teacher'\?\); there are bcp, "),
])  # fmt: skip
def test_a_wrong_change_is_told_by_name(tmp_path, old, new, message):
    path = write(tmp_path, SETTINGS)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new))
    with pytest.raises(StudyError, match=message):
        read(tmp_path)


def test_overrides_of_any_bundle_that_there_is_are_taken(tmp_path):
    write(tmp_path, replace(SETTINGS, overrides={"urpc": {"steps": 3}}))
    assert read(tmp_path).overrides == {"urpc": {"steps": 3}}


def test_a_data_set_or_a_folder_a_modality_is_not_one_folder_of_images():
    assert replace(SETTINGS, images="/data/images").one_folder
    assert not replace(SETTINGS, images="/data/set", labels="").one_folder
    assert not SETTINGS.one_folder


def test_a_folder_without_a_plan_says_how_to_make_one(tmp_path):
    with pytest.raises(StudyError, match=r"is not a study: it has no study.yaml. Plan one first"):
        read(tmp_path)
