"""The rooms of ``custom/`` (docs/architecture.md): what import-linter keeps, and that it would notice; and types."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LINT = Path(sys.executable).with_name("lint-imports")
ROOMS = "Rooms import downwards"
PACKAGES = ("custom", "distribution", "annotate", "benchmarks")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINT, "--no-cache"], cwd=root, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pt", "__pycache__", "results"))
    return folder


def test_types():
    """Here and not before the tests, so that it shares the time of two workers with them."""
    found = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_import_goes_down():
    found = lint(ROOT)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(("file", "line", "contract", "named"), [
    ("losses/consistency.py", "from ..methods import Method", ROOMS, "custom.losses.consistency -> custom.methods"),
    ("run/output.py", "def late():\n    from ..report import plots", ROOMS, "custom.run.output -> custom.report.plots"),
    ("cohort/names.py", "from .check import Check", "No circles", "No cycles are allowed in custom.cohort"),
    ("cohort/check.py", "import distribution.cards", "custom knows nobody", "custom.cohort.check -> distribution.cards"),
    ("another.py", "", ROOMS, "another"),  # a room that the contract does not name
])  # fmt: skip
def test_a_wrong_import_is_named(copy, file, line, contract, named):
    path = copy / "custom" / file
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
    found = lint(copy)
    path.write_text(before, encoding="utf-8") if before is not None else path.unlink()
    assert found.returncode == 1
    assert f"{contract} BROKEN" in found.stdout or "not listed as layers" in found.stdout, found.stdout
    assert named in found.stdout


def test_the_calls_that_the_docs_list_are_there():
    """Each row of ``docs/architecture.md`` names a file and something that it defines."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(custom/[\w/]+\.py)` `([\w.]+)`", text)
    assert len(named) > 20
    assert [(file, name) for file, name in named if name not in definitions(ROOT / file)] == []


def definitions(file: Path) -> set[str]:
    """Functions and classes of a module, what it imports by name, and ``Class.method``."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found
