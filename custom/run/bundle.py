"""The bundle that a run leaves behind, complete by itself: its task and overrides are merged into its configs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..files import under, write_text
from .config import TRACKING, RunConfig

CONFIGS = ("train.yaml", "inference.yaml", "evaluate.yaml", "multi_gpu_train.yaml")
# How a run begins and ends belongs to an overlay: the bundle of a run on several GPUs trains on one as well.
_PROCESS = ("initialize", "run", "training", "finalize")


def write_bundle(folder: Path, config: RunConfig, local: Mapping[str, Any] | None = None) -> None:
    """Write ``configs/``, ``scripts/`` (real files), ``docs/`` and ``LICENSE`` of the run's bundle into ``folder``.

    ``train.yaml`` and ``inference.yaml`` keep the comments of the originals; ``metadata.json`` gets the run's
    channels and classes, and ``networks`` where it has them. From there inference, evaluation and further training need
    no overlay: training starts from ``models/model.pt``.

    Args:
        folder: of the new bundle.
        config: what the run was told; its ``bundle_root`` is the bundle that is copied.
        local: ids that change with the place, and their values; None is a run's: its data by absolute paths.
    """
    source = config.bundle_root
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    _copy_rest(source, folder)
    local = _local_values(config) if local is None else dict(local)
    merged = {k: v for k, v in config.config.items() if k not in (*_PROCESS, *TRACKING)} | local
    texts = {name: (source / "configs" / name).read_text(encoding="utf-8") for name in CONFIGS}
    texts["train.yaml"] = rewrite(texts["train.yaml"], merged)
    texts["inference.yaml"] = rewrite(texts["inference.yaml"], _shared_values(source, merged))
    texts["metadata.json"] = json.dumps(_metadata(config), indent=4) + "\n"
    for name, text in texts.items():
        write_text(folder / "configs" / name, text)


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
    if not data_list.startswith("phantom:"):
        data_list = str(under(root, data_list))
    written = yaml.safe_load((root / "configs/train.yaml").read_text(encoding="utf-8"))
    machine = {name: written[name] for name in ("device", "workers", "mlflow_uri") if name in written}
    handlers: dict[str, Any] = {
        part: {**config.config[part], "handlers": written[part]["handlers"]}
        for part in ("train", "validate")
        if part in written and part in config.config
    }
    return {
        **machine,  # another machine's device, a tracker's address and an annotator's handlers are not the run's
        **handlers,
        "bundle_root": ".",
        "dataset_dir": str(under(root, str(config.resolved("dataset_dir")))),
        "data_list": data_list,
        "output_dir": "$@bundle_root + '/eval'",
        "resume": False,
        "initial_weights": "$@bundle_root + '/models/model.pt'",
    }


def _shared_values(source: Path, merged: dict[str, Any]) -> dict[str, Any]:
    """``inference.yaml`` with the run's values of the ids that both files give the same value (a test keeps them so)."""
    train, inference = (
        yaml.safe_load((source / "configs" / name).read_text(encoding="utf-8"))
        for name in ("train.yaml", "inference.yaml")
    )
    shared = {k for k, value in inference.items() if k in merged and k in train and train[k] == value}
    return {k: merged[k] if k in shared else value for k, value in inference.items()}


def _metadata(config: RunConfig) -> dict[str, Any]:
    classes, channels = config.resolved("classes"), config.resolved("channels")
    patch = list(config.resolved("patch"))
    metadata = json.loads(json.dumps(config.metadata))
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    image["num_channels"], image["spatial_shape"] = len(channels), patch
    image["channel_def"] = {str(i): name for i, name in enumerate(channels)}
    pred["num_channels"], pred["spatial_shape"] = len(classes), patch
    before = ", ".join(list(pred["channel_def"].values())[1:])
    pred["channel_def"] = {str(i): name for i, name in enumerate(classes)}
    values = config.resolved("label_values")
    metadata["label_classes"] = "single channel, " + ", ".join(
        f"{v} {c}" for v, c in zip(values, classes, strict=False)
    )
    metadata["pred_classes"] = metadata["pred_classes"].replace(before, ", ".join(classes[1:]))
    if "networks" in metadata:
        metadata["networks"] = _networks(channels, pred["channel_def"])
    return metadata


def _networks(channels: Sequence[str], classes: Mapping[str, str]) -> dict[str, Any]:
    """Networks that read one modality each, in the files that :meth:`~.output.Output.serve` names."""
    return {
        name: {
            "file": f"models/{'model' if i == 0 else name}.pt",
            "modality": name,
            "channel": i,
            "classes": dict(classes),
        }
        for i, name in enumerate(channels)
    }


def rewrite(text: str, config: dict[str, Any]) -> str:
    """A YAML text with the values of ``config``, its comments kept wherever a value did not change.

    Macros (``%run``) stay as they are written. What only ``config`` has is appended.
    """
    old = yaml.safe_load(text)
    new = {k: _with_macros(old[k], config[k]) if k in config else old[k] for k in old}
    edits: list[tuple[int, int, str]] = []
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert root is not None, "a config is not empty"
    _compare(root, old, new, edits)
    edited = text
    for start, end, value in sorted(edits, reverse=True):
        before = " " if start == end else ""  # `key:` alone, a null that is not written
        after = "\n" if text[start:end].endswith("\n") else ""
        edited = edited[:start] + before + value + after + edited[end:]
    extra = {k: v for k, v in config.items() if k not in old}
    if extra:
        edited += ("" if edited.endswith("\n") else "\n") + yaml.safe_dump(extra, sort_keys=False)
    new |= extra
    return edited if _reads_as(edited, new) else yaml.safe_dump(new, sort_keys=False)


def _with_macros(old: Any, new: Any) -> Any:
    """``new``, with the macros of ``old`` where these two have the same shape."""
    if isinstance(old, str) and old.startswith("%"):
        return old
    if isinstance(old, dict) and isinstance(new, dict):
        return {k: _with_macros(old.get(k), v) for k, v in new.items()}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [_with_macros(a, b) for a, b in zip(old, new, strict=True)]
    return new


def _reads_as(text: str, value: Any) -> bool:
    """False for what cannot be edited in place: anchors, texts of several lines inside of others."""
    try:
        return _alike(yaml.safe_load(text), value)
    except yaml.YAMLError:
        return False


def _alike(a: Any, b: Any) -> bool:
    """Equal, and of the same types: true is not 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def _compare(node: yaml.Node, old: Any, new: Any, edits: list[tuple[int, int, str]]) -> None:
    """Collect the smallest places of the text that must change."""
    if _alike(old, new):
        return
    if isinstance(node, yaml.MappingNode) and isinstance(new, dict):
        keys = [_key(key) for key, _ in node.value]
        if set(new) == set(keys):
            for key, (_, value) in zip(keys, node.value, strict=True):
                _compare(value, old[key], new[key], edits)
            return
    if isinstance(node, yaml.SequenceNode) and isinstance(new, list) and len(node.value) == len(new):
        for value, a, b in zip(node.value, old, new, strict=True):
            _compare(value, a, b, edits)
        return
    edits.append((node.start_mark.index, _end(node), _in_place_of(node, new)))


def _key(node: yaml.Node) -> Any:
    if node.tag == "tag:yaml.org,2002:merge":
        return node.value
    return yaml.SafeLoader("").construct_object(node, deep=True)


def _end(node: yaml.Node) -> int:
    """Where a node's text ends. The parser counts the comments behind an indented block as part of it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.index


def _in_place_of(node: yaml.Node, value: Any) -> str:
    """A list of dashed lines stays one. Its dashes may stand below their key's first letter, where a flow collection
    would be no value of that key."""
    if not isinstance(node, yaml.SequenceNode) or node.flow_style:
        return _flow(value)
    if not isinstance(value, list) or not value:
        return " " + _flow(value)
    return ("\n" + " " * node.start_mark.column).join(f"- {_flow(item)}" for item in value)


def _flow(value: Any) -> str:
    """On one line, quoted as inside of a flow collection, which is right everywhere."""
    return yaml.safe_dump([value], default_flow_style=True, width=10**6, sort_keys=False).strip()[1:-1]
