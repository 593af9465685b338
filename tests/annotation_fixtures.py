"""The annotation server, for real: its own environment, its own process, a folder of drawn scans.

``server`` serves the shipped phantom weights and is shared by all tests of a session, so each test says what it needs of the
labels that are there. ``untrained`` begins without weights, on a network so small that an epoch takes a second. The environment
is made if it is not there (``make annotate-env``); another place: ``ANNOTATE_VENV``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from annotation_server import ROOT, TINY, Server

MODEL = "phantom_2d_mean_teacher"
SCANS = 10


@pytest.fixture(scope="session")
def annotate_python() -> Path:
    """Python of the annotation server's environment."""
    venv = Path(os.environ.get("ANNOTATE_VENV", ROOT / ".venv-annotate")).resolve()
    subprocess.run(["make", "annotate-env", f"ANNOTATE_VENV={venv}"], cwd=ROOT, check=True)
    return venv / "bin/python"


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of images and of labels: p000.nii.gz to p009.nii.gz."""
    from custom import phantom

    folder = tmp_path_factory.mktemp("scans")
    phantom.draw("2d", folder, patients={"labelled": SCANS, "unlabelled": 0, "validation": 0, "test": 0})
    return folder / "images", folder / "labels"


@pytest.fixture(scope="session")
def launched(
    annotate_python: Path, scans: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """``launched("name", model)`` starts a server on a copy of the scans; ``.ready()`` waits for it."""
    started: list[Server] = []

    def launch(name: str, model: str, **environment: str) -> Server:
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(scans[0], folder / "studies")
        server = Server(annotate_python, model, folder / "studies", folder / "work", scans[1], environment)
        started.append(server.launch())
        return server

    yield launch
    for server in started:
        if server.process is not None and server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="session")
def both(launched: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> tuple[Server, Server]:
    """Two servers whose starts overlap: one core waits for the disk while the other imports."""
    task = yaml.safe_load((ROOT / "custom/tasks/phantom_2d.yaml").read_text())
    file = tmp_path_factory.mktemp("task") / "tiny.yaml"
    file.write_text(yaml.safe_dump({**task, **TINY}))
    return launched("trained", MODEL), launched("untrained", f"mean_teacher:{file}")


@pytest.fixture(scope="session")
def server(both: tuple[Server, Server]) -> Server:
    """Serves well-trained weights; an epoch of its trainings is short."""
    ready = both[0].ready()
    config = ready.bundle / "configs/train.yaml"
    text, changed = re.subn(r"(?m)^epoch_steps: \d+", "epoch_steps: 4", config.read_text())
    assert changed == 1
    config.write_text(text)
    return ready


@pytest.fixture(scope="session")
def untrained(both: tuple[Server, Server]) -> Server:
    """Has no weights yet, and no label."""
    return both[1].ready()
