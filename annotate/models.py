"""The model of a work folder: which one, where it comes from, and whether it can read the studies.

``--model`` names a pretrained bundle, the folder of a finished one, or ``METHOD:TASK.yaml``, which begins without weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from annotate.versions import Versions
from custom.cohort import data_list
from custom.cohort.errors import CohortError
from custom.cohort.names import first_file, stem
from custom.errors import UserError, nearest
from distribution.cards import card, cards

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_TASK = "hippocampus"


class StartError(UserError, ValueError):
    """The server cannot be started like this."""


def recommended() -> str:
    """Return the name of the pretrained bundle that serves where none is named.

    Raises:
        StartError: there is none.
    """
    found = [card.name for card in cards() if card.task == DEFAULT_TASK and card.recommended]
    if not found:
        raise StartError(f"no pretrained bundle of {DEFAULT_TASK} is recommended. Name a model with --model")
    return found[0]


def expanded(model: str) -> str:
    """The model with the ``~`` of its path as the folder that it stands for: make and ``--model=`` leave it as it is."""
    method, colon, path = model.rpartition(":")
    return f"{method}{colon}{Path(path).expanduser()}" if path.startswith("~") else model


def source_of(model: str) -> str:
    """Return what the record of version 0001 says of where a model came from."""
    return f"as shipped: {Path(model).resolve() if Path(model).is_dir() else model}"


def judge_source(model: str, bundle: Path) -> None:
    """Refuse a model other than the one that the work folder began with, since two folders may have one name.

    Where it is the same with other weights now, print so: what serves is the work folder's own.

    Raises:
        StartError: another model.
    """
    versions = Versions(bundle)
    first = versions.record("0001") if "0001" in versions.names() else {}
    if "source" not in first:  # it began without weights
        return
    if first["source"] != source_of(model):
        raise StartError(
            f"{bundle} was made from another model ({first['source']}), and has versions of its own. Give --work another "
            f"folder for {model}, or remove {bundle}"
        )
    shipped = Path(model) / "models/model.pt" if Path(model).is_dir() else _weights_of(model)
    if shipped is not None and shipped.is_file():
        found = hashlib.sha256(shipped.read_bytes()).hexdigest()
        if found != first["sha256"]["model.pt"]:
            print(
                f"{model} has other weights now than {bundle} began with; the versions there go on. Anew: another --work"
            )


def _weights_of(name: str) -> Path | None:
    return card(name).models / "model.pt"


def model_name(model: str) -> str:
    """Return what the model is called in the server: of a folder its last part that says something, of a start METHOD_TASK."""
    if ":" in model:
        method, _, task = model.partition(":")
        return f"{Path(method).name}_{Path(task).stem}"
    path = Path(model)
    if path.is_dir():
        parts = [part for part in path.resolve().parts if part not in ("bundle", "eval", "/")]
        return "".join(c if c.isalnum() or c in "_-" else "_" for c in parts[-1])
    return path.name


def install(model: str, bundle: Path, names: Mapping[Path, str]) -> None:
    """Put a bundle into the work folder: made aside, renamed at the end.

    Args:
        names: see :func:`learnt_by`.

    Raises:
        StartError: the folder is not a finished bundle, or there is no such method or task.
        UserError: no pretrained bundle of that name.
    """
    bundle.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{bundle.name}.", suffix=".tmp", dir=bundle.parent))
    try:
        if ":" in model:
            method, _, task = model.partition(":")
            untrained(method, task, aside)
        elif Path(model).is_dir():
            copy_bundle(Path(model), aside)
        else:
            pretrained(model, aside)
        if (aside / "models").is_dir():
            os.rename(aside / "models", aside / "shipped")
            networks = {p.stem: p for p in sorted((aside / "shipped").glob("*.pt")) if not p.stem.endswith("_final")}
            versions = Versions(aside)
            versions.serve(versions.add(networks, source=source_of(model), labelled=learnt_by(aside, names)))
            shutil.rmtree(aside / "shipped")
        aside.chmod(0o755)
        os.rename(aside, bundle)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def learnt_by(bundle: Path, names: Mapping[Path, str]) -> list[str]:
    """Names of the labelled scans that a finished bundle was trained on, by the list that its config names: they judge nothing.

    None where that list is no longer there, or is not a list.

    Args:
        names: of images, by file, where MONAI Label calls them otherwise than the file.
    """
    config = bundle / "configs/train.yaml"
    if not config.is_file():
        return []
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    try:
        parts = data_list.listed(settings.get("data_list", ""), root=bundle)
    except CohortError:
        return []
    files = [first_file(entry) for entry in parts.get("labelled", [])]
    return sorted({names.get(Path(file).resolve(), stem(file)) for file in files})


def pretrained(name: str, folder: Path) -> None:
    """Write the pretrained bundle of that name."""
    from distribution.assemble import assemble

    assemble(card(name), folder)


def copy_bundle(source: Path, folder: Path) -> None:
    """Copy a finished bundle, without its runs and data."""
    if not (source / "configs/inference.yaml").is_file() or not (source / "models/model.pt").is_file():
        raise StartError(
            f"--model {source} is not a finished bundle: expected configs/inference.yaml and models/model.pt in it. Give the "
            "`bundle` folder of a training's output_dir, or METHOD:TASK.yaml to begin without weights"
        )
    ignored = shutil.ignore_patterns("eval", "data", "__pycache__", "*_final.pt", "*.onnx", "*.ts")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=ignored)


def untrained(method: str, task: str, folder: Path) -> None:
    """Write the bundle of a method with a task, and no weights: its first training begins from random ones."""
    from monai.bundle import ConfigParser

    from custom.run.bundle import write_bundle
    from custom.run.config import RunConfig

    source, file = ROOT / "bundles" / method, Path(task)
    if not (source / "configs/train.yaml").is_file():
        known = sorted(path.name for path in (ROOT / "bundles").iterdir() if path.is_dir())
        raise StartError(
            f"--model {method}:{task}: no method {method!r}{nearest(method, known)}; there are {', '.join(known)}"
        )
    if not file.is_file():
        raise StartError(f"--model {method}:{task}: {file} does not exist. Give a task, as in custom/tasks")
    parser = ConfigParser()
    parser.read_config([source / "configs/train.yaml", file])
    parser.read_meta(source / "configs/metadata.json")
    parser["bundle_root"] = str(source)
    write_bundle(folder, RunConfig(parser))


def judge_model(bundle: Path, image: Path) -> None:
    """Refuse a model that cannot read the images, judged by the first of them.

    Raises:
        StartError: its labels cannot be drawn in 3D Slicer; it needs a file for each of several modalities; the image is not
            of its kind.
    """
    from custom.cohort.case import Case, Task
    from custom.cohort.facts import read

    config = yaml.safe_load((bundle / "configs/inference.yaml").read_text(encoding="utf-8"))
    channels = list(config["channels"])
    if config["label_values"][0] != 0 or min(config["label_values"]) < 0:
        raise StartError(
            f"{bundle.name} has label_values {config['label_values']}: 3D Slicer takes 0 for the background and numbers above it "
            "for segments. Choose a model whose first value is 0 and the smallest"
        )
    several = "networks" in json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))
    facts = read(image)
    if several or (facts.channels == 1 and len(channels) > 1):
        raise StartError(
            f"{bundle.name} reads {len(channels)} modalities of a scan ({', '.join(channels)}), and {image.name} is one image. "
            "MONAI Label has one file a scan: such a model cannot be annotated with. Choose one that reads one channel"
        )
    slices, dimensions = bool(config["slices"]), int(config["dimensions"])
    task = Task(
        channels=tuple(channels), axes=3 if slices else dimensions, slices=slices,
        orientation=config.get("orientation", ""), fill_nonfinite=bool(config.get("fill_nonfinite")),
        values=tuple(config["label_values"]), spacing_mm=config.get("spacing_mm"),
    )  # fmt: skip
    case = Case("studies", image.name, image.name, {"": str(image)}, "")
    if faults := [text for _, text in task.faults(case, {str(image): facts})]:
        raise StartError(f"{bundle.name} cannot read these studies: {'; '.join(faults)}")
