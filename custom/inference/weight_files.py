"""Where the files of trained networks lie."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError
from ..files import under

logger = logging.getLogger(__name__)


class WeightsError(UserError, ValueError):
    """Weights do not fit the network, or none read the modality of a case."""


class NoWeights(UserError, FileNotFoundError):
    """There is no trained network where one is expected."""


def find(bundle_root: str | Path, name: str = "model.pt") -> str:
    """The weights that a bundle serves: those of the last training in ``eval/``, else those shipped in ``models/``.

    Raises:
        NoWeights: neither is there.
    """
    root = Path(bundle_root)
    places = [root / "eval" / "bundle" / "models" / name, root / "models" / name]
    for path, whose in zip(places, ("of the last training", "shipped with the bundle"), strict=True):
        if path.is_file():
            logger.info("Weights: %s, %s.", path, whose)
            return str(path)
    raise NoWeights(
        f"no weights: neither {places[0]} nor {places[1]} exists. Train first, or give them with --model_file."
    )


def folder(bundle_root: str | Path, output_dir: str | Path) -> str:
    """The ``models`` folder to evaluate: of the run in ``output_dir``, else of the bundle itself (a finished run's).

    Raises:
        NoWeights: neither holds a ``model.pt``.
    """
    root = Path(bundle_root)
    places = [under(root, output_dir) / "bundle" / "models", root / "models"]
    for path, whose in zip(places, ("of the run in output_dir", "the bundle's own"), strict=True):
        if (path / "model.pt").is_file():
            logger.info("Weights: %s, %s.", path, whose)
            return str(path)
    raise NoWeights(
        f"nothing to evaluate: there is no model.pt in {places[0]} nor in {places[1]}. Train first, or give the "
        "folder of a run with --output_dir."
    )


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a file of weights.

    Raises:
        WeightsError: they do not fit the network.
    """
    weights = torch.load(path, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise WeightsError(
            f"{path}: these weights do not fit network_def ({str(error).splitlines()[-1].strip()}). Set widths, "
            "channels, classes, dimensions and norm as they were in training, or evaluate inside the finished bundle "
            "(cd OUTPUT_DIR/bundle)."
        ) from error
