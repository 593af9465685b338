"""Do features of the encoder tell which scans a network outlines badly, beyond what its confidence says?

    python -m benchmarks.unlike RUN [RUN ...]       folders of finished runs

For each run the network that serves sees the labelled and the test scans of the run's list. The maps of the coarsest level are
averaged over a scan; a scan's distance is that to the nearest labelled scan (1 - cosine, and Euclid after division by the spread
over all scans). A scan is *unlike* where that is larger than the largest distance of a labelled scan to the other labelled
patients. Printed, over the test scans: Spearman's correlation of nearness, and of confidence, with Dice on the network's grid,
and the Dice of scans that are unlike and of the others. Test labels judge here and choose nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from custom.dice import mean_of_known
from custom.errors import UserError, show_plainly
from custom.inference.confidence import confidence
from custom.markdown import table
from custom.networks.probabilities import softmax

DISTANCES = ("cosine", "Euclid")


class SeenScan(NamedTuple):
    """What a network makes of a scan."""

    patient: str
    features: NDArray[np.float64]  # (channels,)
    confidence: float
    dice: float


class Coarsest:
    """Averages over a scan the smallest map that any layer of a network makes; windows count alike."""

    def __init__(self, network: nn.Module) -> None:
        self._size, self._maps = 0.0, list[Tensor]()
        network.register_forward_pre_hook(lambda *_: self._begin())
        for layer in network.modules():
            if not list(layer.children()):
                layer.register_forward_hook(self._see)
        network.register_forward_hook(lambda *_: self._sums.append(self._maps[-1].flatten(2).mean(2)))
        self._sums: list[Tensor] = []

    def _begin(self) -> None:
        self._size = math.inf

    def _see(self, _: nn.Module, __: Any, made: Tensor) -> None:
        if (size := math.prod(made.shape[2:])) <= self._size:
            self._size = size
            self._maps = [made]

    def take(self) -> NDArray[np.float64]:
        """The features of the scan seen since the last call."""
        found = torch.cat(self._sums).double().mean(0).numpy()
        self._sums = []
        return found


def scans(run: Path) -> tuple[list[SeenScan], list[SeenScan]]:
    """The labelled and the test scans of a run, as its network sees them.

    Raises:
        UserError: the folder holds no finished run.
    """
    bundle = run / "bundle"
    if not (bundle / "models/model.pt").is_file():
        raise UserError(f"{run} holds no bundle/models/model.pt. Give the output_dir of a finished run")
    sys.path.insert(0, str(bundle))
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/train.yaml"))
    parser["bundle_root"] = str(bundle)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models/model.pt", map_location="cpu", weights_only=True))
    network.eval()
    coarsest = Coarsest(network)
    read, infer = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("inferer")
    lists = json.loads(Path(parser.get_parsed_content("data_list")).read_text(encoding="utf-8"))

    def see(entry: dict[str, Any]) -> SeenScan:
        found = read({"image": entry["image"], "label": entry["label"]})
        with torch.no_grad():
            logits = infer(found["image"].as_tensor()[None].float(), network)[0]
        made, label = logits.argmax(0), found["label"].as_tensor()[0]
        pairs = [(made == c, label == c) for c in range(1, len(logits)) if (label == c).any()]
        dice = mean_of_known(float(2 * (a & b).sum() / (a.sum() + b.sum())) for a, b in pairs)
        return SeenScan(str(entry["patient"]), coarsest.take(), confidence(logits, softmax), dice)

    return [see(entry) for entry in lists["labelled"]], [see(entry) for entry in lists["test"] if "label" in entry]


def distances(
    kind: str, labelled: Sequence[SeenScan], test: Sequence[SeenScan]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances of each labelled and of each test scan to the nearest labelled scan of another patient."""
    everyone = np.array([scan.features for scan in (*labelled, *test)])
    if kind == "cosine":
        everyone /= np.linalg.norm(everyone, axis=1, keepdims=True)
        found = 1 - everyone @ everyone[: len(labelled)].T
    else:
        everyone /= everyone.std(axis=0) + 1e-6
        found = np.sqrt(((everyone[:, None] - everyone[None, : len(labelled)]) ** 2).mean(-1))
    same = np.array([[a.patient == b.patient for b in labelled] for a in (*labelled, *test)])
    nearest = np.where(same, np.inf, found).min(axis=1)
    return nearest[: len(labelled)], nearest[len(labelled) :]


def rows(run: Path) -> list[list[str]]:
    """A row a kind of distance."""
    labelled, test = scans(run)
    test = [scan for scan in test if math.isfinite(scan.dice)]
    dice = np.array([scan.dice for scan in test])
    sure = np.array([0.0 if math.isnan(scan.confidence) else scan.confidence for scan in test])
    found = []
    for kind in DISTANCES:
        known, far = distances(kind, labelled, test)
        unlike = far > known.max()
        means = [f"{dice[which].mean():.3f} ({which.sum()})" if which.any() else "none" for which in (unlike, ~unlike)]
        ranks = [f"{-spearmanr(far, dice)[0]:.2f}", f"{spearmanr(sure, dice)[0]:.2f}"]
        found.append([run.name, kind, *ranks, *means])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unlike", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    heads = ["run", "distance", "nearness with Dice", "confidence with Dice", "Dice of unlike scans", "of the others"]
    print(table(heads, [row for run in parser.parse_args(arguments).runs for row in rows(run)], texts=2))


if __name__ == "__main__":
    show_plainly()
    main()
