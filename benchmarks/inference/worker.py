"""One way to segment a folder of images, in a process of its own: a bundle's ``inference.yaml``, or MONAI's parts as they are."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..speed.turns import ROOT, answer, keep_stdout, wait


def main(spec: dict[str, Any]) -> None:
    keep_stdout()
    os.chdir(ROOT / "bundles" / spec["bundle"])
    sys.path.insert(0, ".")
    evaluator = _evaluator(spec)
    while True:
        wait()
        shutil.rmtree(spec["out"], ignore_errors=True)
        began = time.perf_counter()
        evaluator.run()
        seconds = time.perf_counter() - began
        answer(seconds=seconds, scans=len(list(Path(spec["out"]).glob("[!.]*_pred.*"))))


def _evaluator(spec: dict[str, Any]) -> Any:
    from monai.bundle import ConfigParser

    config = ConfigParser.load_config_files(["configs/inference.yaml", spec["task"]])
    ours = {"dataset_dir": spec["images"], "output_dir": spec["out"], "again": True, "memory_gb": spec["memory_gb"]}
    parser = ConfigParser({**config, **ours})
    if spec["stock"]:
        return _stock(parser, spec)
    parser.get_parsed_content("config").start()  # as a run begins
    parser.get_parsed_content("check")({"unlabelled": parser.get_parsed_content("data")})
    return parser.get_parsed_content("evaluator")


def _stock(parser: Any, spec: dict[str, Any]) -> Any:
    """The same network, transforms and windows; the rest is what MONAI's own bundles write: nothing overlaps."""
    from monai.data import DataLoader, Dataset
    from monai.engines import SupervisedEvaluator
    from monai.handlers import CheckpointLoader
    from monai.transforms import AsDiscreted, Compose, Invertd, SaveImaged

    network, before = parser.get_parsed_content("network"), parser.get_parsed_content("preprocessing")
    after = Compose([
        Invertd("pred", before, "image", nearest_interp=False, to_tensor=True),
        AsDiscreted("pred", argmax=True),
        SaveImaged("pred", output_dir=spec["out"], output_postfix="pred", separate_folder=False, print_log=False),
    ])  # fmt: skip
    images = parser.get_parsed_content("images")
    weights = CheckpointLoader(str(parser.get_parsed_content("model_path")), {"model": network})
    return SupervisedEvaluator(
        device=torch.device(parser.get_parsed_content("device")), network=network, postprocessing=after, val_handlers=[weights],
        val_data_loader=DataLoader(Dataset(images, before), batch_size=1, num_workers=0),
        inferer=parser.get_parsed_content("inferer"),
    )  # fmt: skip


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
