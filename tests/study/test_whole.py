"""A study from two folders to its page, for real."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from custom import phantom
from custom.errors import UserError
from custom.study import __main__ as module
from custom.study.__main__ import main
from custom.study.durations import Taken
from custom.study.jobs import Stopped
from custom.study.plan import Asked
from custom.study.settings import Settings, StudyError, write

LABELLED, UNLABELLED = 4, 4


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Phantom scans of eight patients, four with a label."""
    phantom.draw(
        "2d", tmp_path / "drawn", patients={"labelled": LABELLED, "unlabelled": UNLABELLED, "validation": 0, "test": 0}
    )
    for name in json.loads((tmp_path / "drawn/list.json").read_text(encoding="utf-8"))["unlabelled"]:
        (tmp_path / "drawn/labels" / Path(name["image"]).name).unlink(missing_ok=True)
    return tmp_path / "drawn/images", tmp_path / "drawn/labels"


def study(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "custom.study", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.slow
def test_two_folders_become_a_page_and_a_second_call_does_nothing_again(folders, tmp_path):
    images, labels = folders
    out = tmp_path / "out"
    planned = study("plan", out, "--images", images, "--labels", labels, "--budget", "60m", "--classes", "RV,Myo,LV")
    assert planned.returncode == 0, planned.stderr
    assert "classes: [background, RV, Myo, LV]" in (out / "task.yaml").read_text(encoding="utf-8")
    settings = (out / "study.yaml").read_text(encoding="utf-8")
    short = re.sub(r"(?m)^steps: \d+", "steps: 4", re.sub(r"(?m)^(steps_at_equal_time): \d+", r"\1: 8", settings))
    (out / "study.yaml").write_text(re.sub(r"(?m)^folds: \d", "folds: 2", short))
    first = study("run", out)
    assert first.returncode == 0, first.stdout + first.stderr
    page = (out / "verdict.html").read_text(encoding="utf-8")
    assert "4 labelled patients, 4 unlabelled scans" in page
    assert len(list((out / "predictions").glob("*_pred.nii.gz"))) == UNLABELLED
    assert (out / "bundle/models/model.pt").is_file()
    second = study(out)
    jobs = len(list((out / "work/runs").iterdir()))
    assert f"{jobs} of {jobs} trainings are done already." in second.stdout


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda images, labels: [path.unlink() for path in labels.iterdir()], "no images in"),
    (lambda images, labels: [path.unlink() for path in sorted(labels.iterdir())[1:]], "1 labelled patient found: one must train"),
    (lambda images, labels: [path.rename(path.with_name(f"other_{path.name}")) for path in labels.iterdir()],
     "no label in"),
])  # fmt: skip
def test_scans_that_no_study_can_be_made_of_are_told_in_words_before_anything_runs(folders, tmp_path, spoil, message):
    images, labels = folders
    spoil(images, labels)
    with pytest.raises(UserError, match=message):
        main([str(word) for word in (tmp_path / "out", "--images", images, "--labels", labels)])
    assert not (tmp_path / "out/work/probe").exists()


def test_a_plan_that_is_made_again_takes_what_is_not_said_from_the_one_there_is(tmp_path, monkeypatch):
    (tmp_path / "task.yaml").write_text("classes: [background, polyp]\n")
    write(
        tmp_path,
        Settings({"t1": "/data/t1"}, "/data/labels", r"^(p)", method="bcp", others=("cps",), seed=4, budget=60.0),
    )
    asked: list[Asked] = []
    monkeypatch.setattr(module, "plan", lambda folder, words, tell: asked.append(words) or Settings("", "", ""))
    main(["plan", str(tmp_path), "--budget", "2h", "--seed", "0"])
    assert asked == [Asked({"t1": Path("/data/t1")}, Path("/data/labels"), 7200.0, r"^(p)", ["polyp"], method="bcp",
                           others=("cps",), seed=0)]  # fmt: skip


@pytest.mark.parametrize("ends", [Stopped, StudyError])
def test_the_time_of_a_call_that_was_stopped_or_ended_with_a_fault_counts(tmp_path, monkeypatch, ends):
    write(tmp_path, Settings("/data", "", ""))
    (tmp_path / "work").mkdir()
    (tmp_path / "work/seconds").write_text("60\n")
    now = iter([0.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now, 100.0))

    def ended(*_: object) -> None:
        raise ends

    monkeypatch.setattr(module, "_trainings", ended)
    with contextlib.suppress(StudyError):
        assert main(["run", str(tmp_path)]) == 130
    assert Taken.read(tmp_path) == Taken(60.0, None, 100.0)


def test_a_bundle_that_is_named_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="supervised is named twice: --baseline and --methods are different bundles"):
        main([str(tmp_path), "--images", str(tmp_path), "--methods", "mean_teacher", "supervised"])


def test_make_study_hands_on_what_a_shell_or_make_would_eat(tmp_path):
    """``make -n`` says what it would run; the shell then reads it."""
    said = {"OUT": "it's $HOME", "IMAGES": "a b", "LABELS": "$(l)", "PATIENT": r"^(p\d+)$", "CLASSES": "`x`,y"}
    (tmp_path / "run.stamp").touch()
    given = [f"{name}={value}" for name, value in said.items()]
    command = ["make", "-n", "-o", f"{tmp_path}/run.stamp", "study", f"VENV={tmp_path}", *given]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in printed.splitlines() if "-m custom.study" in line)
    options = [
        "--images",
        said["IMAGES"],
        "--labels",
        said["LABELS"],
        "--patient",
        said["PATIENT"],
        "--classes",
        said["CLASSES"],
    ]
    assert shlex.split(line)[3:] == [said["OUT"], *options]


def test_options_that_a_plan_does_not_follow_are_named(tmp_path, capsys):
    tmp_path = tmp_path / "my study"
    tmp_path.mkdir()
    planned = Settings(str(tmp_path / "none"), "", "", budget=600.0, seed=3)
    write(tmp_path, planned)
    again = [str(tmp_path), "--budget", "10m", "--seed", "3"]
    file = tmp_path / "study.yaml"
    both, blank = f"Change {file}, or plan", tmp_path / "it's new"
    for words, unused, change in (
        (again, "", ""), ([*again, "--methods", "unimatch"], "--methods unimatch", both),
        ([str(tmp_path), "--budget", "20m", "--seed", "4"], "--budget 1200s, --seed 4", f"For --seed 4 change {file}, or plan"),
        ([str(tmp_path), "--budget", "2h", "--seed", "3"], "--budget 7200s", "Plan"),
        ([str(tmp_path), "--budget", "10m", "--seed", "0"], "--seed 0", both),
        ([*again, "--classes", "a b,c"], "--classes 'a b,c'", "Plan"),
        ([*again, "--images", str(blank)], f"--images {shlex.quote(str(blank))}", both),
        ([*again, "--labels", str(blank)], f"--labels {shlex.quote(str(blank))}", both),
        ([*again, "--images", str(tmp_path / "none")], "", ""),
    ):  # fmt: skip
        with pytest.raises(UserError, match="none"):
            main(words)
        command = f"python -m custom.study plan {shlex.quote(str(tmp_path))} {unused.replace(', --', ' --')}"
        line = f"Not used, as the study is planned already: {unused}. {change} it again: {command}\n"
        found = capsys.readouterr().out
        assert found.startswith(line) if unused else not found
