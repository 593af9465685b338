"""Studies that have no scan, or one alone, without a label."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from finished import BETTER, LABELLED, UNLABELLED, study
from saying import raises, says

from custom.study import __main__ as module
from custom.study import plan
from custom.study.settings import StudyError, write
from custom.study.state import State

SCANS = LABELLED + UNLABELLED


def label(made: State, count: int) -> None:
    """Give so many of the unlabelled scans a label, as MONAI Label does."""
    images = made.folder / "data/images"
    (images / "labels/final").mkdir(parents=True)
    for k in range(LABELLED, LABELLED + count):
        shutil.copy(made.folder / "data/labels/p00_a.nii.gz", images / f"labels/final/p{k:02}_a.nii.gz")


def lists(made: State) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (made.folder / "work").glob("*.json")}


def test_a_plan_of_scans_that_all_have_labels_is_refused_at_once(tmp_path, monkeypatch):
    made = study(tmp_path / "made", BETTER)
    label(made, UNLABELLED)
    monkeypatch.setattr(plan, "_probe", lambda *_: pytest.fail("trained"))
    data, said = made.folder / "data", []
    with raises(StudyError, f"Found {SCANS} scans of {SCANS} patients, all with labels", "needs some", "images without a label",
                "leave out the labels of some patients", "bundles/supervised", "README.md"):  # fmt: skip
        plan.plan(tmp_path / "out", plan.Asked(data / "images", data / "labels", 7200.0), said.append)
    assert not (tmp_path / "out/study.yaml").exists()


@pytest.mark.parametrize("step", [[], ["run"], ["report"]])
@pytest.mark.usefixtures("few_pictures")
def test_a_study_whose_last_scan_was_labelled_trains_nothing_and_keeps_its_page(tmp_path, monkeypatch, step):
    folder = tmp_path / "my study"
    made = study(folder, BETTER, seed=7)
    before = lists(made)
    label(made, UNLABELLED)
    (folder / "verdict.html").write_text("the last page")
    monkeypatch.setattr(module.Runner, "run", lambda *_: pytest.fail("trained"))
    with raises(StudyError, f"All {SCANS} scans of {SCANS} patients have labels now", "nothing to compare",
                "nothing was trained", "verdict.html and what lies beside it stay", "supervised learns from all labels",
                f"{folder}/all_labels/bundle", "For another study") as error:  # fmt: skip
        module.main([*step, str(folder)])
    assert (folder / "verdict.html").read_text() == "the last page"
    after = lists(made)
    data = json.loads(after.pop("all_labels.json"))
    assert {name: after[name] for name in before} == before
    assert {part: len(entries) for part, entries in data.items() if entries} == {"labelled": SCANS}
    where, command = str(error.value).splitlines()[1].strip().split(" && ")
    assert shlex.split(where) == ["cd", str(ROOT / "bundles/supervised")]
    options = dict(zip((words := shlex.split(command)[5:])[::2], words[1::2], strict=True))
    assert options["--config_file"] == f"['configs/train.yaml','{folder}/task.yaml']"
    assert options["--data_list"] == str(folder / "work/all_labels.json")
    assert {name: options[f"--{name}"] for name in ("steps", "epoch_steps", "seed")} == {
        "steps": "400", "epoch_steps": "20", "seed": "7",
    }  # fmt: skip


@pytest.mark.usefixtures("few_pictures")
def test_the_command_has_what_the_user_sets_for_the_bundle_and_no_word_of_a_page_that_is_not_there(tmp_path):
    made = study(tmp_path, {}, overrides={"supervised": {"learning_rate": 0.02}})
    label(made, UNLABELLED)
    write(tmp_path, made.settings)
    with pytest.raises(StudyError) as error:
        module.main(["run", str(tmp_path)])
    says(str(error.value), "nothing was trained. supervised learns", "--learning_rate 0.02")


@pytest.mark.usefixtures("few_pictures")
def test_a_study_with_one_scan_left_goes_on(tmp_path, monkeypatch):
    made = study(tmp_path, BETTER)
    label(made, UNLABELLED - 1)
    asked: list[object] = []
    monkeypatch.setattr(module, "check", lambda *_: None)
    monkeypatch.setattr(module.Runner, "run", lambda _, jobs: asked.extend(jobs) or {})
    monkeypatch.setattr(module.verdict, "write", lambda _: Path("page"))
    assert module.main(["run", str(tmp_path)]) == 0
    lists = {job.name: json.loads(job.data_list.read_text(encoding="utf-8")) for job in asked}
    assert {len(data["unlabelled"]) for data in lists.values()} == {1}
