"""``study.yaml`` written, changed by a user, read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from annotate import start
from custom.study.settings import SHOWN, Settings, StudyError, read, write

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


@pytest.mark.parametrize(
    ("image", "shown"), [("a.nii.gz", True), ("a.png", True), ("a.tif", False), ("series/1.dcm", False)]
)
def test_what_can_be_annotated_is_one_folder_of_images_that_monai_label_shows(tmp_path, image, shown):
    (tmp_path / image).parent.mkdir(exist_ok=True)
    (tmp_path / image).touch()
    settings = replace(SETTINGS, images=str(tmp_path))
    assert settings.annotatable is shown
    assert settings.one_folder
    (tmp_path / "dataset.json").touch()
    assert not settings.annotatable
    assert not replace(SETTINGS, images=str(tmp_path / "gone")).annotatable
    assert not replace(SETTINGS, images={"t1": str(tmp_path)}).annotatable


def test_the_kinds_of_images_are_those_that_the_server_is_started_with():
    assert set(SHOWN) == {*start.VOLUMES, *start.PICTURES}


def test_a_folder_without_a_plan_says_how_to_make_one(tmp_path):
    with pytest.raises(StudyError, match=r"is not a study: it has no study.yaml. Plan one first"):
        read(tmp_path)
