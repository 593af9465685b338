"""What nnU-Net's predictor needs to segment with a bundle's network: its plan and names of files, the network as TorchScript."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..peers import cohort, nnunet
from ..speed.turns import ROOT

WORKER = Path(__file__).with_name("in_nnunet.py")
_END = "_0000.nii.gz"  # of a file with the first channel


def prepare(form: str, bundle: str, python: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Plan for the phantom ``form`` by nnU-Net's planner, which looks at its labelled scans, and write the network.

    Returns:
        What :mod:`.in_nnunet` takes, except ``images`` and ``out``.

    Raises:
        PeersError: nnU-Net's planner failed.
    """
    folder.mkdir(parents=True)
    phantom = cohort.read(f"phantom_{form}", folder / "drawn", folder)
    places = {name: folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    cohort.write_raw(phantom, places["nnUNet_raw"])
    configuration = "2d" if phantom.flat else "3d_fullres"
    words = ["-d", "1", "-c", configuration, "--no_pp", "-npfp", str(threads)]
    around = {**os.environ, **{name: str(place) for name, place in places.items()}, "CUDA_VISIBLE_DEVICES": ""}
    nnunet.command([str(python.with_name("nnUNetv2_plan_and_preprocess")), *words], folder / "log.txt", around)
    planned = places["nnUNet_preprocessed"] / cohort.DATASET
    config = _config(form, bundle)
    write_network(config, ROOT / "bundles" / bundle / "models/model.pt", folder / "network.pt")
    inferer = config["inferer"]
    grid = config["spacing_mm"][: config["dimensions"]]
    return {
        "plans": str(planned / "nnUNetPlans.json"), "dataset": str(planned / "dataset.json"),
        "network": str(folder / "network.pt"), "configuration": configuration, "threads": threads, "overlap": inferer["overlap"],
        # its arrays lie the other way round: z, y, x
        "patch": list(config["patch"] if inferer["roi_size"] == "@patch" else inferer["roi_size"])[::-1],
        "spacing": [] if min(grid) < 0 else grid[::-1],
    }  # fmt: skip


def named(images: Path, folder: Path) -> Path:
    """A folder of links to ``images`` under the names that nnU-Net reads."""
    folder.mkdir(parents=True)
    for image in sorted(images.iterdir()):
        (folder / image.name.replace(".nii.gz", _END)).symlink_to(image)
    return folder


def write_network(config: ConfigParser, weights: Path, file: Path) -> None:
    """The bundle's network with its shipped weights, as TorchScript."""
    network = config.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    torch.jit.script(network).save(str(file))


def _config(form: str, bundle: str) -> ConfigParser:
    files = [ROOT / "bundles" / bundle / "configs/inference.yaml", ROOT / f"custom/tasks/phantom_{form}.yaml"]
    config = ConfigParser.load_config_files([str(file) for file in files])
    target = config["network_def"]["_target_"]
    return ConfigParser(
        {**config, "network_def": {**config["network_def"], "_target_": target.replace("scripts.", "custom.")}}
    )
