"""What a study's page was made with and of, beside it."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from pathlib import Path

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
from finished import BETTER, study
from page_fixtures import words
from saying import says

from custom.study import verdict, versions
from custom.study.jobs import TRAINED


def clone(folder: Path) -> str:
    """A repository of one file; returns its commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x"]
    (folder / "code.py").write_text("1")
    for words_ in (["init", "-q"], ["add", "code.py"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words_], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.usefixtures("few_pictures")
def test_beside_the_page_stands_what_it_was_made_with_and_of(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "commit", lambda _: "0123456789abcdef+")
    made = study(tmp_path, BETTER)
    run = made.runs / "final_mean_teacher"
    (run / "bundle/models").mkdir()
    (run / "bundle/models/model.pt").write_bytes(b"weights")
    (run / "bundle/models/intensities.json").write_text("{}")
    (run / TRAINED).parent.mkdir(parents=True, exist_ok=True)
    (run / TRAINED).touch()
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    found = json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))
    weights = hashlib.sha256(b"weights").hexdigest()
    task = hashlib.sha256((tmp_path / "task.yaml").read_bytes()).hexdigest()
    labels = found.pop("labels")
    assert found == {
        "commit": "0123456789abcdef+", "python": platform.python_version(), "torch": str(torch.__version__),
        "monai": monai.__version__, "weights": {"models/model.pt": weights}, "task": task,
    }  # fmt: skip
    says(
        text,
        "commit 0123456789+,",
        f"model.pt {weights[:10]}, task.yaml {task[:10]}, labels {labels[:10]} (versions.json",
    )
    nib.save(nib.Nifti1Image(np.full((24, 24, 4), 5, np.uint8), np.eye(4)), tmp_path / "data/labels/p01_a.nii.gz")
    versions.write(made, served=True)
    assert json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))["labels"] != labels
    versions.write(made, served=False)
    assert json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))["weights"] == {}, "of an earlier page"


def test_the_commit_is_that_of_a_clone_and_says_where_files_differ(tmp_path, monkeypatch):
    assert versions.commit(tmp_path) is None
    head = clone(tmp_path)
    assert versions.commit(tmp_path) == head
    (tmp_path / "unpacked").mkdir()
    assert versions.commit(tmp_path / "unpacked") is None, "another repository's commit"
    (tmp_path / "code.py").write_text("2")
    assert versions.commit(tmp_path) == f"{head}+"
    monkeypatch.setenv("PATH", "")
    assert shutil.which("git") is None
    assert versions.commit(tmp_path) is None


def test_a_library_that_was_installed_under_another_name_withholds_no_page():
    assert versions._version("torch") == str(torch.__version__)
    assert versions._version("no-such-library") is None
