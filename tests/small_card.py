"""Small pretrained bundles made on the spot: random weights of a few kilobytes, and a card that fits them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from conftest import ROOT, TINY, default_task
from monai.bundle import ConfigParser

from distribution.cards import Card, read
from distribution.packing import digest

SCORE = {"dice": {"mean": 0.75, "low": 0.7, "high": 0.8}, "hd95": {"mean": 3.0, "low": 2.0, "high": 4.0}}
OTHERS = {"mean_teacher": "student"}  # a second network beside model.pt


def small_card(folder: Path, method: str, task: str = "", **changes: Any) -> Card:
    """Write weights and card of ``method`` on ``task`` (its default phantom) to ``folder/NAME``; ``changes`` replace keys."""
    task = task or default_task(ROOT / "bundles" / method).stem
    name = f"{task}_{method}"
    sizes = {key: TINY[key] for key in ("widths", "dropout", "labelled_batch", "unlabelled_batch", "amp")}
    overrides = {
        **sizes,
        "patch": [16] * 3 if task in ("phantom_3d", "hippocampus") else [32, 32],
        "steps": 4,
        "epoch_steps": 2,
    }
    (folder / name).mkdir(parents=True)
    weights = {}
    for file, network in networks(method, task, overrides).items():
        torch.save(network.state_dict(), folder / name / file)
        weights[file] = digest(folder / name / file)
    card = {**content(name, method, task), "overrides": overrides, "weights": weights, **changes}
    (folder / name / "card.yaml").write_text(yaml.safe_dump(card))
    return read(folder / name / "card.yaml")


def networks(method: str, task: str, overrides: dict[str, Any]) -> dict[str, torch.nn.Module]:
    """The networks that a bundle of the repository serves, with random weights, by file."""
    config: dict[str, Any] = {}
    for path in (ROOT / f"bundles/{method}/configs/train.yaml", ROOT / f"custom/tasks/{task}.yaml"):
        config |= yaml.safe_load(path.read_text(encoding="utf-8"))
    config = json.loads(json.dumps({**config, **overrides}).replace("scripts.", "custom."))
    torch.manual_seed(0)
    made = {"model.pt": ConfigParser(config).get_parsed_content("network_def")}
    if method in OTHERS:
        made[f"{OTHERS[method]}.pt"] = ConfigParser(config).get_parsed_content("network_def")
    if method == "contrastive_mutual":
        made["second.pt"] = ConfigParser(config).get_parsed_content("train::method::second")
    for network in made.values():  # as trained: running statistics that are not those of a fresh network
        for key, value in network.state_dict().items():
            if key.endswith(("running_mean", "running_var")):
                value.copy_(torch.rand_like(value) + 0.5)
    return made


def content(name: str, method: str, task: str) -> dict[str, Any]:
    """A card without weights."""
    return {
        "name": name, "version": "0.1.0", "method": method, "task": task, "overrides": {}, "models": ".",
        "weights": {}, "recommended": False,
        "training": {"commands": ["cd bundles", "python -m monai.bundle run training"], "commit": "0" * 40, "seed": 0,
                     "date": "2026-11-23", "machine": "one thread", "minutes": 1.5},
        "data": {"name": "Phantom", "source": "python -m scripts.phantom", "licence": "Apache-2.0", "attribution": "Nobody",
                 "labelled": 4, "unlabelled": 40, "validation": 10, "test": 60, "split": "drawn"},
        "figures": {
            "validation": {"dice": {"mean": 0.7}},
            "test": {**SCORE, "cases": 60, "patients": 60, "missed": 1, "false_alarms": 0, "empty_labels": 0,
                     "unit": "mm", "classes": {"left ventricle": SCORE},
                     "calibration": {"ece": 0.05, "over": "voxels"}, "others": {}, "interval": "95 %"},
        },
        "intended_use": "A first try.", "not_tested_on": "Anything else.",
    }  # fmt: skip
