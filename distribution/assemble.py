"""The unpacked bundle of a card: configs with the task merged in, real scripts, documents, weights.

It imports nothing that exports or tracks, so that it works in the environment of MONAI Label as well.
"""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from custom.cohort.intensities import FILE
from custom.run.bundle import rewrite, write_bundle
from custom.run.config import RunConfig

from . import model_card
from .cards import ROOT, Card, CardError, verify

TWINS = ("train", "inference")
# Needed to track, to export or to verify, not to run a bundle.
_NOT_RUN = {"mlflow", "jsonschema", "onnx", "onnxscript", "packaging"}
# MONAI puts a bundle's root on sys.path in `run` only, after the network of `monai.bundle.load` was asked for, and
# never forgets the `scripts` of another bundle. The root is found where MONAI keeps it, in the workflow that evaluates this.
INITIALIZE = """\
initialize:                # `scripts` is this bundle's, wherever it is called from and whichever bundle was used before
- "$__import__('sys').path.insert(0, str(next(f.frame.f_locals['self'] for f in __import__('inspect').stack(0) if 'config_root_path' in getattr(f.frame.f_locals.get('self'), '__dict__', ())).config_root_path.resolve().parent))"
- "$[m.pop(name) for m in [__import__('sys').modules] for name in [*m] if name.split('.')[0] == 'scripts' and not str(getattr(m[name], '__file__', '')).startswith(__import__('os').path.join(__import__('sys').path[0], 'scripts', ''))]"

"""  # noqa: E501


def assemble(card: Card, folder: Path) -> Path:
    """Write the bundle of ``card`` into ``folder``, all except the exports; return ``folder``.

    Args:
        card: of a pretrained bundle.
        folder: must be empty or absent.

    Raises:
        CardError: weights are missing or not those of the card, before anything is written; ``folder`` holds files.
    """
    verify(card)
    if folder.exists() and any(folder.iterdir()):
        raise CardError(f"{folder} is not empty. Nothing was built.")
    config = _config(card)
    write_bundle(folder, config, _local_values(card))
    _prune(folder)
    for path in sorted((folder / "configs").glob("*.yaml")):
        path.write_text(_as_unpacked(path.read_text(encoding="utf-8"), path.name, card), encoding="utf-8")
    for name in TWINS:
        content = yaml.safe_load((folder / f"configs/{name}.yaml").read_text(encoding="utf-8"))
        (folder / f"configs/{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    metadata = _metadata(card, json.loads((folder / "configs/metadata.json").read_text(encoding="utf-8")))
    (folder / "configs/metadata.json").write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")
    (folder / "models").mkdir()
    for path in card.files:
        shutil.copyfile(path, folder / "models" / path.name)
    if (card.models / FILE).is_file():
        shutil.copyfile(card.models / FILE, folder / "models" / FILE)
    (folder / "docs/README.md").write_text(model_card.readme(card, config.settings(), metadata), encoding="utf-8")
    (folder / "docs/data_license.txt").write_text(model_card.data_license(card), encoding="utf-8")
    return folder


def _config(card: Card) -> RunConfig:
    """What a run of the card's method on its task, with its overrides, is given."""
    root = ROOT / "bundles" / card.method
    parser = ConfigParser()
    parser.read_config([str(root / "configs/train.yaml"), str(card.task_file)])
    parser.read_meta(str(root / "configs/metadata.json"))
    parser.update({**card.overrides, "bundle_root": str(root)})
    return RunConfig(parser)


def _form(card: Card) -> str:
    """The form of the phantom that the card's task is; empty for real scans."""
    data_list = str(yaml.safe_load(card.task_file.read_text(encoding="utf-8")).get("data_list", ""))
    return data_list.removeprefix("phantom:") if data_list.startswith("phantom:") else ""


def _local_values(card: Card) -> dict[str, Any]:
    form = _form(card)
    return {
        "bundle_root": ".",
        "data_list": f"phantom:{form}" if form else "data/list.json",
        "initial_weights": "$@bundle_root + '/models/model.pt'",
    }


def _prune(folder: Path) -> None:
    """Leave the parts of the program in ``scripts``: the tasks are merged in, and what else lies there is nobody's."""
    for path in sorted((folder / "scripts").rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and path.suffix not in (".py", ".html"):
            path.unlink()
    shutil.rmtree(folder / "docs")
    (folder / "docs").mkdir()


# configs


def _as_unpacked(text: str, name: str, card: Card) -> str:
    """A config whose comments say what is there: no repository round it, no task files."""
    text = text.replace(f"cd bundles/{card.method} && ", "")
    task = f"# 2 the task, {card.task}, with some of the numbers above ".ljust(120, "-")
    text = re.sub(r"(?m)^# 2 the task: .*$", task, text)
    if name == "train.yaml":
        text = _train_header(text, card)
    if name == "inference.yaml":
        form = _form(card)
        images = f"phantom_{form}/images" if form else "images"
        text = rewrite(text, {"dataset_dir": f"$@bundle_root + '/data/{images}'"})
    if name.removesuffix(".yaml") in TWINS:
        text = text.replace("\nrun:\n", f"\n{INITIALIZE}run:\n- '%initialize'\n", 1)
    return text


def _train_header(text: str, card: Card) -> str:
    """What the method is, as the original says; then the commands as unpacked."""
    head, _, rest = text.partition("\n\n")
    words = " ".join(line.removeprefix("#").strip() for line in head.splitlines())
    about = words.partition(" As it stands")[0]
    lines = textwrap.wrap(f"{card.name} {card.version}. {about}", 118)
    lines += [
        "Training starts from models/model.pt; --initial_weights '' starts from nothing. docs/README.md says what was measured.",
        "  python -m monai.bundle run training --config_file configs/train.yaml",
    ]
    return "\n".join(f"# {line}" for line in lines) + "\n\n" + rest


# metadata.json


def _metadata(card: Card, metadata: dict[str, Any]) -> dict[str, Any]:
    test = card.figures["test"]
    figures = {metric: test[metric]["mean"] for metric in ("dice", "hd95") if metric in test}
    if "hd95" in figures:
        figures[f"hd95_{test.get('unit', 'mm')}"] = figures.pop("hd95")
    if model_card.judged_otherwise(card)[0]:  # of a study: no scan that is left could test these weights
        figures = {f"{metric}_of_other_networks": value for metric, value in figures.items()}
    return {
        "schema": metadata["schema"],
        "name": card.name,
        **metadata,
        "version": card.version,
        "changelog": {**metadata["changelog"], card.version: f"Trained on {card.data['name']}"},
        "required_packages_version": packages(),
        "data_source": f"{card.data['name']}, {card.data['source']}; licence {card.data['licence']}",
        "eval_metrics": figures,
        "intended_use": " ".join(card.intended_use.split()),
    }


def packages() -> dict[str, str]:
    """What a bundle needs beside MONAI, PyTorch and NumPy, and at least which version: from ``requirements.txt``."""
    found = {}
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        match = re.match(r"([A-Za-z][\w.-]*)[=>]=([\w.]+)", line)
        if match and match[1] not in _NOT_RUN | {"monai", "torch", "numpy"}:
            found[match[1]] = match[2]
    return found
