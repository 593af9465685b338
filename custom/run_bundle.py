"""The bundle that a run leaves behind, complete by itself: its task and overrides are merged into its configs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from .checkpoint import write_atomically
from .run_config import RunConfig


def write_bundle(folder: Path, config: RunConfig) -> None:
    """Write ``configs/``, ``scripts/`` (real files), ``docs/`` and ``LICENSE`` of the run's bundle into ``folder``.

    ``train.yaml`` and ``inference.yaml`` keep the comments of the originals; ``metadata.json`` gets the run's
    channels and classes. From there inference, evaluation and further training need no overlay: training starts from
    ``models/model.pt``.
    """
    source = config.bundle_root
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    _copy_rest(source, folder)
    merged = {**config.config, **_local_values(config)}
    texts = {"train.yaml": rewrite((source / "configs/train.yaml").read_text(), merged)}
    for name in ("inference.yaml", "evaluate.yaml", "multi_gpu_train.yaml"):
        original = (source / "configs" / name).read_text()
        texts[name] = rewrite(original, _shared_values(yaml.safe_load(original), merged)) if name[0] == "i" else original
    texts["metadata.json"] = json.dumps(_metadata(config), indent=4) + "\n"
    for name, text in texts.items():
        write_atomically(folder / "configs" / name, lambda file, text=text: file.write(text.encode()))


def _copy_rest(source: Path, folder: Path) -> None:
    shutil.copytree(source / "scripts", folder / "scripts", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("docs", "LICENSE", "configs/logging.conf"):
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
        elif (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def _local_values(config: RunConfig) -> dict[str, Any]:
    """What changes with the place: data by absolute paths, output and weights below the new bundle."""
    root = config.bundle_root
    data_list = str(config.resolved("data_list"))
    if ":" not in data_list:
        data_list = str(root / data_list)
    return {
        "bundle_root": ".",
        "dataset_dir": str(root / str(config.resolved("dataset_dir"))),
        "data_list": data_list,
        "output_dir": "$@bundle_root + '/eval'",
        "resume": False,
        "initial_weights": "$@bundle_root + '/models/model.pt'",
    }


_OWN = ("bundle_root", "dataset_dir", "output_dir", "device", "run", "training", "config", "workers")


def _shared_values(original: dict[str, Any], merged: dict[str, Any]) -> dict[str, Any]:
    """``inference.yaml`` with the run's values of the ids that it shares with ``train.yaml``."""
    return {k: merged[k] if k in merged and k not in _OWN else value for k, value in original.items()}


def _metadata(config: RunConfig) -> dict[str, Any]:
    classes, channels = config.resolved("classes"), config.resolved("channels")
    patch = list(config.resolved("patch"))
    metadata = json.loads(json.dumps(config.metadata))
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    image["num_channels"], image["spatial_shape"] = len(channels), patch
    image["channel_def"] = {str(i): name for i, name in enumerate(channels)}
    pred["num_channels"], pred["spatial_shape"] = len(classes), patch
    pred["channel_def"] = {str(i): name for i, name in enumerate(classes)}
    return metadata


def rewrite(text: str, config: dict[str, Any]) -> str:
    """A YAML text with the values of ``config``, its comments kept wherever a value did not change.

    Macros (``%run``) stay as they are written. What only ``config`` has is appended.
    """
    old = yaml.safe_load(text)
    edits: list[tuple[int, int, str]] = []
    _compare(yaml.compose(text, Loader=yaml.SafeLoader), old, {k: config[k] for k in old if k in config}, edits)
    for start, end, value in sorted(edits, reverse=True):
        tail = "\n" if text[start:end].endswith("\n") else ""
        text = text[:start] + value + tail + text[end:]
    extra = {k: v for k, v in config.items() if k not in old}
    return text + (yaml.safe_dump(extra, sort_keys=False) if extra else "")


def _compare(node: yaml.Node, old: Any, new: Any, edits: list[tuple[int, int, str]]) -> None:
    if old == new or (isinstance(old, str) and old.startswith("%")):
        return
    if isinstance(node, yaml.MappingNode) and isinstance(new, dict) and list(old) == list(new):
        for key, value in node.value:
            _compare(value, old[key.value], new[key.value], edits)
    else:
        edits.append((node.start_mark.index, node.end_mark.index, _flow(new)))


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip()
    return text.removesuffix("...").strip()
