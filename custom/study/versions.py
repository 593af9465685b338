"""What a study's page was made with and of, ``versions.json``: code, libraries; digests of weights, task, labels."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from ..files import write_text
from .handed_over import digests
from .jobs import labels_digest
from .settings import BUNDLES, TASK
from .state import State
from .trainings import WORK

FILE = "versions.json"
SERVING = "models/model.pt"
LIBRARIES = ("torch", "monai")
SHORT = 10  # hex digits of a digest that the page shows


def write(state: State, served: bool) -> str:
    """Write ``versions.json`` beside ``study.yaml``; returns it as a line for the page.

    Args:
        served: the bundle beside the page belongs to it: else it is of an earlier one, and its weights are not named.
    """
    bundle = digests(state.folder / "bundle") if served else {}
    found: dict[str, Any] = {
        "commit": commit(BUNDLES.parent),
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "weights": {name: digest for name, digest in sorted(bundle.items()) if name.endswith(".pt")},
        "task": hashlib.sha256((state.folder / TASK).read_bytes()).hexdigest(),
        "labels": labels_digest((state.folder / WORK / "final.json").read_text(encoding="utf-8")),
    }
    write_text(state.folder / FILE, json.dumps(found, indent=2) + "\n")
    weights = [f"{Path(SERVING).name} {found['weights'][SERVING][:SHORT]}"] if SERVING in found["weights"] else []
    of = ", ".join([*weights, f"{TASK} {found['task'][:SHORT]}", f"labels {found['labels'][:SHORT]}"])
    code = f"commit {_shown(found['commit'])}" if found["commit"] else "no commit known (not a clone)"
    return f"{code}, Python {found['python']}, torch {found['torch']}, MONAI {found['monai']}; SHA-256: {of}"


def commit(root: Path) -> str | None:
    """The commit of a clone, with ``+`` where files of it differ; None where there is no git or no clone.

    ``root`` is the clone's top: code that was unpacked within another repository is not of that one's commit.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return None
        head = git("rev-parse", "HEAD")
        return f"{head}+" if git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(library: str) -> str | None:
    """None where it was installed under another name, such as a weekly build: no reason to withhold a page."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _shown(commit: str) -> str:
    return f"{commit[:SHORT]}{'+' if commit.endswith('+') else ''}"
