"""nnU-Net's predictor on the network and windows of a bundle: a worker that runs in nnU-Net's own environment, as a file:
``VENV/bin/python in_nnunet.py SPEC``. Of this repository it takes the protocol of turns alone, which imports nothing else."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))
from turns import answer, keep_stdout, wait


def main(spec: dict[str, Any]) -> None:
    """A turn segments the folder ``images``. The plan is nnU-Net's own except window and grid; no mirrored views."""
    keep_stdout()
    torch.set_num_threads(spec["threads"])
    plans, dataset = (json.loads(Path(spec[name]).read_text()) for name in ("plans", "dataset"))
    configuration = plans["configurations"][spec["configuration"]]
    configuration["patch_size"] = spec["patch"]
    if spec["spacing"]:
        configuration["spacing"] = spec["spacing"]
    manager = PlansManager(plans)
    network = torch.jit.load(spec["network"])
    predictor = nnUNetPredictor(
        tile_step_size=1 - spec["overlap"], use_mirroring=False, perform_everything_on_device=False,
        device=torch.device("cpu"), allow_tqdm=False,
    )  # fmt: skip
    weights = network.state_dict()
    predictor.manual_initialization(
        network, manager, manager.get_configuration(spec["configuration"]), [weights], dataset, "nnUNetTrainer", None
    )
    while True:
        wait()
        shutil.rmtree(spec["out"], ignore_errors=True)
        Path(spec["out"]).mkdir(parents=True)
        began = time.perf_counter()
        predictor.predict_from_files_sequential(spec["images"], spec["out"])
        answer(seconds=time.perf_counter() - began, scans=len(list(Path(spec["out"]).glob("*.nii.gz"))))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
