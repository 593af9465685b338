"""The config of a run, made without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conftest import ROOT
from monai.bundle import ConfigParser

from custom.run.config import RunConfig

BUNDLE = ROOT / "bundles/mean_teacher"


def config_of(*overlays: Path, bundle: Path = BUNDLE, **overrides: Any) -> RunConfig:
    """The config of a run of the bundle, from outside of it."""
    files = [str(bundle / "configs/train.yaml"), *map(str, overlays)]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    for key, value in {"bundle_root": str(bundle), **overrides}.items():
        parser[key] = value
    parser["_meta_"] = json.loads((bundle / "configs/metadata.json").read_text())
    return RunConfig(parser, files)
