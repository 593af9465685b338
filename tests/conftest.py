"""What several tests share: tiny cohorts, and a trainer that fits into a second."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/train.yaml"))

sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``dataset_dir`` that holds all forms of the phantom, with a handful of patients each."""
    from custom import phantom

    folder = tmp_path_factory.mktemp("phantoms")
    for form in phantom.FORMS:
        patients = {"labelled": 2, "unlabelled": 3, "validation": 2, "test": 3}
        phantom.draw(form, folder / f"phantom_{form}", patients=patients)
    return folder


@pytest.fixture
def bundle_cwd(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Enter a bundle as ``cd bundles/x && python -m ...`` does: its ``scripts`` are those that are imported."""

    def enter(folder: Path) -> None:
        for name in [m for m in sys.modules if m == "scripts" or m.startswith("scripts.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()

    return enter


TINY = {"steps": 4, "epoch_steps": 2, "val_interval": 1, "labelled_batch": 2, "unlabelled_batch": 2, "patch": [32, 32],
        "widths": [4, 8], "dropout": [0.0, 0.1], "workers": 0, "amp": "off"}  # fmt: skip


@pytest.fixture
def run_bundle(bundle_cwd: Callable[[Path], None], phantoms: Path, tmp_path: Path) -> Callable[..., Path]:
    """``run_bundle(folder, "training", files, **overrides)`` in this process; returns ``output_dir``."""
    from monai.bundle import run

    def go(folder: Path, run_id: str = "training", files: Any = "configs/train.yaml", **overrides: Any) -> Path:
        bundle_cwd(folder)
        told = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path / "out"), **overrides}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="parsing config_file")
            run(run_id=run_id, config_file=files, logging_file=False, **told)  # type: ignore[arg-type]
        return Path(told["output_dir"])

    return go


@pytest.fixture(autouse=True)
def _quiet() -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
