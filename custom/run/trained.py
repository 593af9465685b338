"""Were weights trained under this config? The bundle that a run leaves around them says so in its ``train.yaml``."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..errors import UserError
from .checkpoint import differences
from .config import RunConfig

logger = logging.getLogger(__name__)

# What decides a prediction, with all that these refer to (spacing_mm, widths, norm, patch ...) except what is FREE.
DECIDES = ("channels", "classes", "label_values", "dimensions", "slices", "network_def", "preprocessing", "inferer")
FREE = (
    "bundle_root", "device", "dropout", "fill_nonfinite",
    "inferer::sw_batch_size", "inferer::sw_device", "inferer::device", "inferer::progress",
)  # fmt: skip
WINDOWS = ("inferer::roi_size", "inferer::overlap", "inferer::mode", "inferer::sigma_scale")
"""Free where a prediction is made and none is scored: what fits into the memory there."""


class TrainedOtherwiseError(UserError, ValueError):
    """Weights were trained under other settings than those of this config."""


def check_trained(bundle: Path, config: RunConfig, free: Collection[str] = ()) -> None:
    """Compare what decides a prediction with the ``train.yaml`` of the bundle around the weights.

    Args:
        bundle: the folder above ``models``. One without ``configs/train.yaml`` is not judged: the log says so.
        config: under which the weights are to be used.
        free: ids that may differ, besides :data:`FREE`.

    Raises:
        TrainedOtherwiseError: naming each setting that differs.
    """
    found = changed_since_training(bundle, config, free)
    if found is None:
        logger.warning("%s says nothing of a training: whether its weights fit these settings is not checked.", bundle)
    elif found:
        raise TrainedOtherwiseError(
            f"These networks were not trained under this config ({bundle / 'configs/train.yaml'}):\n  "
            + "\n  ".join(found)
            + f"\nGive the same task and overrides as the training, or {_where(bundle, config.bundle_root)}"
        )


def changed_since_training(bundle: Path, config: RunConfig, free: Collection[str] = ()) -> list[str] | None:
    """Return a sentence for each setting that decides a prediction and differs; None where ``bundle`` has no ``train.yaml``."""
    path = bundle / "configs" / "train.yaml"
    if not path.is_file():
        return None
    trained, now = RunConfig(ConfigParser(ConfigParser.load_config_file(path))).config, config.config
    names = [*dict.fromkeys([*_deciding(trained), *_deciding(now)])]
    before, after = ({name: raw[name] for name in names if name in raw} for raw in (trained, now))
    return [line.replace("written", "trained", 1) for line in differences(before, after, (*FREE, *free))]


def decisive(config: RunConfig) -> dict[str, Any]:
    """The settings that a prediction depends on, as they are written, by their full names: what decides that weights fit, and
    what is done to the network's result until it is saved."""
    names = _deciding(config.config, (*DECIDES, "postprocessing"), without="saving")
    raw = {name: config.config[name] for name in names}
    free = [
        name for name in FREE if name != "fill_nonfinite"
    ]  # decides nothing in training, only what an image with a NaN becomes
    return {name: value for name, value in _leaves(raw) if not any(f"{name}::".startswith(f"{f}::") for f in free)}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield name, value
        return
    for key, item in items:
        yield from _leaves(item, f"{name}::{key}" if name else str(key))


def _where(bundle: Path, root: Path) -> str:
    bundle, here = bundle.resolve(), Path.cwd()
    if bundle == root:  # weights that came with it
        return "train with these settings first"
    return f"go into the finished bundle: cd {bundle.relative_to(here) if bundle.is_relative_to(here) else bundle}"


def _deciding(config: Mapping[str, Any], ids: Collection[str] = DECIDES, without: str = "") -> list[str]:
    """The ids given, and every id that they refer to, directly or not, except ``without``."""
    found: list[str] = []
    waiting = [name for name in ids if name in config]
    while waiting:
        name = waiting.pop(0)
        if name not in (*found, without):
            found.append(name)
            waiting += [
                other for text in _texts(config[name]) for other in re.findall(r"@(\w+)", text) if other in config
            ]
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
