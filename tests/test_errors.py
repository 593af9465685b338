"""A fault that a user can mend is shown as one text, without a traceback; everything else as before."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT
from saying import says

CODE = """
import sys
sys.path.insert(0, {root!r})
from custom.errors import UserError, show_plainly
class NoScans(UserError, ValueError): ...
show_plainly(); show_plainly()
def inner():
    raise {error}
try:
    inner()
except Exception as error:
    raise RuntimeError("Failed to evaluate ConfigExpression") from error
"""


def last_words(error: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(root=str(ROOT), error=error)], capture_output=True, text=True
    )
    return done.returncode, done.stderr


def test_a_mendable_fault_is_its_text_and_nothing_else():
    assert last_words("NoScans('no scans in /data: give a folder')") == (
        1,
        "\nerror: no scans in /data: give a folder\n",
    )


def test_any_other_error_keeps_its_traceback():
    code, text = last_words("KeyError('x')")
    assert code == 1
    assert text.count("Traceback") == 2
    assert "Failed to evaluate" in text


@pytest.mark.parametrize(("module", "names"), [
    ("files", "FileError"), ("run.checkpoint", "CheckpointError"), ("run.folder", "RunFolderError"),
    ("stream.preprocessed", "ListError ScanError"), ("stream.cache", "CacheError"),
    ("inference.weight_files", "NoWeights WeightsError"),
    ("run.trained", "TrainedOtherwiseError"), ("cohort.errors", "CohortError"), ("run.overrides", "ConfigError"),
    ("training.guard", "NotFinite"),
])  # fmt: skip
def test_every_report_of_ours_is_one(module, names):
    import importlib

    from custom.errors import UserError

    for name in names.split():
        assert issubclass(getattr(importlib.import_module(f"custom.{module}"), name), UserError)


@pytest.mark.parametrize(
    "module",
    [
        "custom.cohort",
        "custom.report",
        "custom.phantom",
        "benchmarks.demo",
        "benchmarks.study",
        "distribution.configs",
        "annotate.start",
    ],
)
@pytest.mark.fault("36", "a command outside of the virtual environment, of every package")
def test_a_python_without_monai_says_so_in_one_sentence(module):
    """``-S`` hides what is installed, as if the virtual environment were not active."""
    ended = subprocess.run([sys.executable, "-S", "-m", module], cwd=ROOT, capture_output=True, text=True, env={})
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    found = (f"error: this Python ({sys.executable})", "no torch", "no monai")
    says(line, *found, "source .venv/bin/activate", "pip install -r requirements.txt")
