"""The bundle that a run leaves behind, complete by itself: its task and overrides are merged into its configs."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML, RoundTripRepresenter

from ..cohort.data_list import list_path
from ..files import under, write_text
from .config import PROCESS, RunConfig, referred_ids, without_idle
from .overrides import TRACKING, escaped

CONFIGS = ("train.yaml", "inference.yaml", "evaluate.yaml", "multi_gpu_train.yaml")
# What inference.yaml says differently; every other id that both files have follows the run.
_OWN_OF_INFERENCE = ("dataset_dir", "output_dir", "data", "check")
OF_ALL_BUNDLES = "study"  # the room of custom/ that trains several bundles: none carries it
_MAY_GO = RunConfig.NOT_EVERYWHERE  # ids that the task of a run may leave without use


def write_bundle(folder: Path, config: RunConfig, local: Mapping[str, Any] | None = None) -> None:
    """Write ``configs/``, ``scripts/`` (real files), ``docs/`` and ``LICENSE`` of the run's bundle into ``folder``.

    ``train.yaml`` and ``inference.yaml`` keep the comments of the originals; ``metadata.json`` gets the run's
    channels and classes, and ``networks`` where it has them. From there inference, evaluation and further training need
    no overlay: training starts from ``models/model.pt``.

    Args:
        folder: of the new bundle.
        config: of the run; its ``bundle_root`` is the bundle that is copied.
        local: ids that change with the place, and their values; None is a run's: its data by absolute paths.
    """
    source = config.bundle_root
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    _copy_rest(source, folder)
    local = _local_values(config) if local is None else dict(local)
    # How a run begins and ends belongs to an overlay: the bundle of a run on several GPUs trains on one as well.
    merged = {k: v for k, v in config.config.items() if k not in (*PROCESS, *TRACKING)} | local
    texts = {name: (source / "configs" / name).read_text(encoding="utf-8") for name in CONFIGS}
    texts["train.yaml"] = rewrite(texts["train.yaml"], merged, _MAY_GO)
    texts["inference.yaml"] = rewrite(
        texts["inference.yaml"], _of_inference(texts["inference.yaml"], merged), (*_MAY_GO, "patch")
    )
    texts["metadata.json"] = json.dumps(_metadata(config), indent=4) + "\n"
    for name, text in texts.items():
        write_text(folder / "configs" / name, text)


def _of_inference(text: str, merged: Mapping[str, Any]) -> dict[str, Any]:
    """``inference.yaml`` with the run's values, and with the run's ids that only these refer to."""
    inference = yaml.safe_load(text)
    inference |= {k: merged[k] for k in inference if k in merged and k not in _OWN_OF_INFERENCE}
    inference |= {k: merged[k] for k in sorted(referred_ids(inference) - set(inference)) if k in merged}
    return without_idle(inference, (*_MAY_GO, "patch"))


def _copy_rest(source: Path, folder: Path) -> None:
    shutil.copytree(source / "scripts", folder / "scripts", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__", OF_ALL_BUNDLES))  # fmt: skip
    for name in ("docs", "LICENSE", "configs/logging.conf", "configs/published.yaml"):
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
        elif (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def _local_values(config: RunConfig) -> dict[str, Any]:
    """What changes with the place: data by absolute paths, output and weights below the new bundle."""
    root = config.bundle_root
    data_list = str(config.resolved("data_list"))
    if not data_list.startswith("phantom:"):
        data_list = str(list_path(data_list, root=root))
    written = yaml.safe_load((root / "configs/train.yaml").read_text(encoding="utf-8"))
    machine = {
        name: written[name]
        for name in ("device", "workers", "memory_share", "cache_dir", "mlflow_uri")
        if name in written
    }
    handlers: dict[str, Any] = {
        part: {**config.config[part], "handlers": written[part]["handlers"]}
        for part in ("train", "validate")
        if part in written and part in config.config
    }
    return {
        **machine,  # another machine's device and folder, a tracker's address and an annotator's handlers are not the run's
        **handlers,
        "bundle_root": ".",
        "dataset_dir": escaped(str(under(root, str(config.resolved("dataset_dir"))))),
        "data_list": escaped(data_list),
        "output_dir": "$@bundle_root + '/eval'",
        "resume": False,
        "initial_weights": "$@bundle_root + '/models/model.pt'",
    }


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


def rewrite(text: str, config: Mapping[str, Any], may_go: Collection[str] = ()) -> str:
    """A YAML text with the values of ``config``; its comments and macros (``%run``) stay.

    What only ``config`` has is appended; what only the text has stays, except the ids of ``may_go``. Both PyYAML and
    MONAI read the values back with their types. A text with anchors is written anew, without comments: a change of one
    place would change the others.
    """
    stays = {name: value for name, value in yaml.safe_load(text).items() if name not in may_go}
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        return yaml.safe_dump({**stays, **config}, sort_keys=False)
    document = _replaced(_yaml().load(text), {**stays, **config})
    edited = io.StringIO()
    _yaml().dump(document, edited)
    return edited.getvalue()


def _yaml() -> YAML:
    yaml_ = YAML(plug_ins=[])  # does not look for them
    yaml_.preserve_quotes = True
    yaml_.width = 10**6
    yaml_.Representer = _Representer
    return yaml_


class _Representer(RoundTripRepresenter):
    """Writes ``null`` as a word: ruamel.yaml leaves the place empty."""

    def represent_none(self, data: None) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def _replaced(node: Any, value: Any) -> Any:
    """``value``; where it has the form of ``node``, that one with other leaves, since comments hang on it."""
    if isinstance(node, str) and node.startswith("%"):
        return node
    if not value and node and isinstance(value, dict | list):
        return _flow(value)  # emptied in its place, ruamel.yaml would write it behind the comment, on a line of its own
    if isinstance(node, dict) and isinstance(value, dict):
        for key in [key for key in node if key not in value]:
            del node[key]
        for key, item in value.items():
            node[key if key in node else _flow(key)] = _replaced(node[key], item) if key in node else _flow(item)
        return node
    if isinstance(node, list) and isinstance(value, list):
        del node[len(value) :]
        for i, item in enumerate(node):
            node[i] = _replaced(item, value[i])
        node.extend(_flow(item) for item in value[len(node) :])
        return node
    same = node == value and isinstance(node, type(value)) and isinstance(node, bool) == isinstance(value, bool)
    return node if same else _flow(value)


def _flow(value: Any) -> Any:
    """The value as PyYAML writes it, on one line: YAML 1.1, where `off` is a boolean and 1e-3 a text."""
    return _yaml().load(yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False))
