"""Is it what a network knows, or where its answer is cut? Dice of validation scans at other thresholds than 0.5.

    python -m benchmarks.thresholds RUN

RUN is the output_dir of a finished run of one foreground class. Every network that it wrote (the final weights) sees whole
validation scans, slice by slice where the task does. Printed is the mean Dice over those whose label has the structure, where a
voxel is foreground from so much probability on. The best threshold is of the same scans that are judged: an upper bound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from custom.cohort import data_list
from custom.dice import class_dice, mean_of_known
from custom.errors import UserError, show_plainly
from custom.markdown import table
from custom.networks.probabilities import probabilities_of

THRESHOLDS = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
FINAL = "_final.pt"


def dice_at(foreground: Tensor, label: Tensor, threshold: float) -> float:
    """Dice of the voxels whose probability is at least the threshold; NaN where the label is empty."""
    made = foreground >= threshold
    return class_dice(int((made & label).sum()), int(made.sum()), int(label.sum()))


def rows(run: Path) -> list[list[str]]:
    """A row for each network.

    Raises:
        UserError: the folder holds no finished run; more than one foreground class.
    """
    bundle = run / "bundle"
    weights = sorted((bundle / "models").glob(f"*{FINAL}"))
    if not weights:
        raise UserError(f"{run} holds no bundle/models/*{FINAL}. Give the output_dir of a finished run")
    sys.path.insert(0, str(bundle))
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/train.yaml"))
    parser["bundle_root"] = str(bundle)
    if len(classes := parser.get("classes")) != 2:
        raise UserError(f"{run} has the classes {classes}: expected a background and one foreground class")
    network, read = parser.get_parsed_content("network"), parser.get_parsed_content("preprocessing")
    channels, slices = parser.get("channels"), parser.get("slices")
    entries = data_list.read(parser.get_parsed_content("data_list"))["validation"]
    scans = [read({"image": [entry["image"][c] for c in channels] if isinstance(entry["image"], dict) else entry["image"],
                   "label": entry["label"]}) for entry in entries]  # fmt: skip
    found = []
    for file in weights:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        network.eval()
        maps = [
            (_foreground(network, scan["image"].as_tensor().float(), slices), scan["label"].as_tensor()[0] > 0)
            for scan in scans
        ]
        dices = [mean_of_known(dice_at(one, label, threshold) for one, label in maps) for threshold in THRESHOLDS]
        found.append([file.name.removesuffix(FINAL), *(f"{dice:.3f}" for dice in dices)])
    return found


def _foreground(network: nn.Module, image: Tensor, slices: bool) -> Tensor:
    """Probabilities ``(*spatial)`` of an image ``(C, *spatial)``."""
    batch = image.movedim(-1, 0) if slices else image[None]
    with torch.no_grad():
        found = probabilities_of(network)(network(batch))[:, 1]
    return found.movedim(0, -1) if slices else found[0]


def main(arguments: Sequence[str] | None = None) -> None:
    show_plainly()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.thresholds", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", type=Path, help="output_dir of a finished run")
    print(table(["network", *map(str, THRESHOLDS)], rows(parser.parse_args(arguments).run.resolve())))


if __name__ == "__main__":
    main()
