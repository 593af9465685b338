"""A finished bundle that says under which settings its weights were trained, and nothing else; they hold no tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser

from custom.run.config import RunConfig

CONFIG: dict[str, Any] = {
    "seed": 0, "patch": [64, 64], "dropout": [0.0], "spacing_mm": [1.5, 1.5, -1], "channels": ["image"],
    "label_values": [0, 1], "orientation": "RAS",
    "preprocessing": {"_target_": "Spacingd", "keys": "image", "pixdim": "@spacing_mm", "axcodes": "@orientation"},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [64, 64], "sw_batch_size": 8, "overlap": 0.25},
    "network_def": {"_target_": "scripts.networks.UNet", "in_channels": "$len(@channels)", "dropout": "@dropout"},
}  # fmt: skip
WINDOWS = CONFIG["inferer"]


def trained(folder: Path, **settings: Any) -> Path:
    """``models`` of a finished bundle, trained with these settings on top of ``CONFIG``."""
    (folder / "configs").mkdir(parents=True)
    (folder / "configs/train.yaml").write_text(yaml.safe_dump({**CONFIG, **settings}))
    (folder / "models").mkdir()
    torch.save({}, folder / "models/model.pt")
    return folder / "models"


def settings_of(**settings: Any) -> RunConfig:
    return RunConfig(ConfigParser({**CONFIG, **settings}))
