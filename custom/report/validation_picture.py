"""One picture of what the serving network makes of the validation cases: the worst, the median and the best."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..dice import mean_of_known
from ..files import write_atomically
from ..networks.one_channel import reads
from ..training.precision import autocast
from ..training.validation import ServingEvaluator, case_dice
from .plots import case_pictures


def validation_picture(
    validator: ServingEvaluator,
    network: nn.Module,
    png: Path,
    name: str = "network",
) -> bool:
    """Predict every validation case once more and draw up to three of them, ordered by Dice, one below the other.

    Where the size of a case's voxels is not known, its pixels are drawn as squares.

    Args:
        validator: of the run; its cases, its inferer and its precision are used. Its state is left alone.
        network: with the weights that serve; set to evaluation.
        png: the file to make, whole or not at all.
        name: of the network, above its panels.

    Returns:
        False where no case can be scored: nothing is drawn then.
    """
    network.eval()
    scores = [mean_of_known(case_dice(*_predict(validator, network, i), len(validator.classes)))
              if reads(network, validator.dataset[i]["present"]) else math.nan
              for i in range(len(validator.dataset))]  # fmt: skip
    chosen = worst_median_best(scores)
    if not chosen:
        return False
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for place, index in chosen.items():
            pred, label = _predict(validator, network, index)
            path = Path(folder) / f"{index}.png"
            case_pictures(
                _image(validator.dataset[index]["image"]), label.cpu().numpy(), {name: pred.cpu().numpy()}, path,
                f"{place}: {validator.dataset.case_name(index)}", validator.classes[1:],
                validator.dataset.spacing_mm(index),
            )  # fmt: skip
            rows.append(_read(path))
    write_atomically(png, lambda stream: _stacked(rows).save(stream, format="png"))
    return True


def worst_median_best(scores: Sequence[float]) -> dict[str, int]:
    """Positions of up to three scores by what they are; of two the worst and the best. What is nan has no place."""
    order = sorted((i for i, score in enumerate(scores) if not math.isnan(score)), key=lambda i: scores[i])
    if len(order) < 3:
        return dict(zip(("worst", "best") if len(order) == 2 else ("only case",), order, strict=False))
    return {"worst": order[0], "median": order[(len(order) - 1) // 2], "best": order[-1]}


@torch.no_grad()
def _predict(validator: ServingEvaluator, network: nn.Module, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Class indices and label ``(*spatial)`` of a case."""
    case, device = validator.dataset[index], torch.device(validator.state.device)
    with autocast(validator.dtype, device):
        logits = validator.inferer(case["image"][None].to(device), network)
    return logits[0].argmax(dim=0), case["label"][0].to(device)


def _image(image: torch.Tensor) -> NDArray[Any]:
    """A photograph that was scaled to [0, 1] in the whole numbers that are drawn in colour; others as they are."""
    array: NDArray[Any] = image.cpu().numpy()
    colour = array.ndim == 3 and len(array) == 3 and array.min() >= 0 and array.max() <= 1
    return np.round(array * 255) if colour else array


def _read(path: Path) -> NDArray[Any]:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _stacked(rows: Sequence[NDArray[Any]]) -> Any:
    """One below the other, on white up to the widest."""
    from PIL import Image

    width = max(row.shape[1] for row in rows)
    wide = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return Image.fromarray(np.concatenate(wide))
