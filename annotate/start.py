"""Start the annotation server on a folder of images: ``python -m annotate.start --studies DIR``, or ``make annotate``.

Everything that is written lies in a work folder: the bundle in ``model/NAME`` with the versions of its weights, logs. It is
made once and kept, so that retrained weights survive a restart. MONAI Label itself keeps labels and an index in DIR:
``labels/final/``, ``datastore_v2.json``. Nothing is fetched from anywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from custom.errors import UserError, nearest, show_plainly

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_TASK = "hippocampus"
INDEX = "datastore_v2.json"
TOKEN = "MONAI_LABEL_TOKEN"
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha")
PICTURES = (".png", ".jpg", ".jpeg")
SWITCHES = {
    "MONAI_LABEL_SESSIONS": "false",  # images of nobody's study, uploaded and kept in the user's home
    "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",  # a second process that writes the datastore's index
    "MONAI_LABEL_TASKS_SCORING": "false",
    "MONAI_LABEL_TASKS_BATCH_INFER": "false",
    "MONAI_LABEL_TRACKING_ENABLED": "false",
    "PYTHONUNBUFFERED": "1",  # the training's lines, as it says them
}


class StartError(UserError, ValueError):
    """The server cannot be started like this."""


def prepare(studies: Path, model: str | None, work: Path | None) -> tuple[Path, str]:
    """Make the work folder, or find it again; returns it and the model's name.

    Raises:
        StartError: the studies cannot be annotated with this model.
        UserError: no such model.
    """
    images = judge_studies(studies)
    repair_index(studies / INDEX)
    work = (work or default_work(studies)).resolve()
    if work == studies.resolve() or work.is_relative_to(studies.resolve()):
        raise StartError(
            f"--work {work} lies in the studies, which MONAI Label watches. Choose a folder outside of {studies}"
        )
    model = model or recommended()
    name = model_name(model)
    bundle = work / "model" / name
    if bundle.is_dir():
        judge_source(model, bundle)
    else:
        install(model, bundle)
    judge_model(bundle, images[0])
    (work / "main.py").write_text("from annotate.main import AnnotateApp  # MONAI Label looks for its app here\n")
    return work, name


def judge_studies(studies: Path) -> list[Path]:
    """The images of the folder.

    Raises:
        StartError: it does not exist, cannot be written, or holds no image itself.
    """
    if not studies.is_dir():
        raise StartError(f"--studies {studies} is no folder. Give the folder that holds the images")
    images = sorted(p for p in studies.iterdir() if p.is_file() and p.name.endswith(VOLUMES + PICTURES))
    if not images:
        below = sum(1 for p in studies.rglob("*") if p.name.lower().endswith(VOLUMES + PICTURES))
        found = f"{below} lie below it or end in capitals: images must lie in DIR itself" if below else "found none"
        raise StartError(f"--studies {studies}: expected images ({' '.join(VOLUMES + PICTURES)}), {found}")
    if not os.access(studies, os.W_OK):
        raise StartError(
            f"--studies {studies} cannot be written: labels are kept below it. Make it writable, or copy the images"
        )
    return images


def repair_index(index: Path) -> None:
    """Set MONAI Label's index aside where it is cut short: it is written in place, and a server may be killed in that.
    The next start makes it anew from the images and labels that are there; only cached scores are lost."""
    if not index.is_file():
        return
    try:
        json.loads(index.read_text(encoding="utf-8"))
    except ValueError:
        aside = index.with_name(f"{index.name}.damaged")
        os.replace(index, aside)
        print(f"{index} was damaged and is made anew from the files that are there; the old one: {aside.name}")


def default_work(studies: Path) -> Path:
    """``annotation/NAME-1a2b3c4d`` in the repository: two folders of one name have two work folders."""
    digest = hashlib.sha256(str(studies.resolve()).encode()).hexdigest()[:8]
    return ROOT / "annotation" / f"{studies.resolve().name}-{digest}"


def recommended() -> str:
    """Name of the pretrained bundle that serves where none is named.

    Raises:
        StartError: there is none.
    """
    from distribution.cards import cards

    found = [card.name for card in cards() if card.task == DEFAULT_TASK and card.recommended]
    if not found:
        raise StartError(f"no pretrained bundle of {DEFAULT_TASK} is recommended. Name a model with --model")
    return found[0]


def source_of(model: str) -> str:
    """What the record of version 0001 says of where a model came from."""
    return f"as shipped: {Path(model).resolve() if Path(model).is_dir() else model}"


def judge_source(model: str, bundle: Path) -> None:
    """Refuse a model that is not the one that the work folder began with: two folders may have one name. Say so where it
    is, with other weights now: what serves is the work folder's own.

    Raises:
        StartError: another model.
    """
    from annotate.versions import Versions

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
    from distribution.cards import card

    return card(name).models / "model.pt"


def model_name(model: str) -> str:
    """What the model is called in the server: of a folder its last part that says something, of a start METHOD_TASK."""
    if ":" in model:
        method, _, task = model.partition(":")
        return f"{Path(method).name}_{Path(task).stem}"
    path = Path(model)
    if path.is_dir():
        parts = [part for part in path.resolve().parts if part not in ("bundle", "eval", "/")]
        return "".join(c if c.isalnum() or c in "_-" else "_" for c in parts[-1])
    return path.name


def install(model: str, bundle: Path) -> None:
    """Put a bundle into the work folder: made aside, renamed at the end.

    Raises:
        StartError: the folder is no finished bundle, or there is no such method or task.
        UserError: no pretrained bundle of that name.
    """
    from annotate.versions import Versions

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
            versions.serve(versions.add(networks, source=source_of(model)))
            shutil.rmtree(aside / "shipped")
        aside.chmod(0o755)
        os.rename(aside, bundle)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def pretrained(name: str, folder: Path) -> None:
    """The pretrained bundle of that name."""
    from distribution.assemble import assemble
    from distribution.cards import card

    assemble(card(name), folder)


def copy_bundle(source: Path, folder: Path) -> None:
    """A finished bundle, without its runs and data."""
    if not (source / "configs/inference.yaml").is_file() or not (source / "models/model.pt").is_file():
        raise StartError(
            f"--model {source} is no finished bundle: expected configs/inference.yaml and models/model.pt in it. Give the "
            "`bundle` folder of a training's output_dir, or METHOD:TASK.yaml to begin without weights"
        )
    ignored = shutil.ignore_patterns("eval", "data", "__pycache__", "*_final.pt", "*.onnx", "*.ts")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=ignored)


def untrained(method: str, task: str, folder: Path) -> None:
    """The bundle of a method with a task, and no weights: its first training begins from random ones."""
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
        StartError: it needs a file for each of several modalities; the image is not of its kind.
    """
    from custom.cohort.case import Case, Task
    from custom.cohort.facts import read

    config = yaml.safe_load((bundle / "configs/inference.yaml").read_text(encoding="utf-8"))
    channels, several = (
        list(config["channels"]),
        "networks" in json.loads((bundle / "configs/metadata.json").read_text()),
    )
    facts = read(image)
    if several or (facts.channels == 1 and len(channels) > 1):
        raise StartError(
            f"{bundle.name} reads {len(channels)} modalities of a scan ({', '.join(channels)}), and {image.name} is one image. "
            "MONAI Label has one file a scan: such a model cannot be annotated with. Choose one that reads one channel"
        )
    slices, dimensions = bool(config["slices"]), int(config["dimensions"])
    task = Task(tuple(channels), (), 3 if slices else dimensions, slices, bool(config.get("fill_nonfinite")))
    case = Case("studies", image.name, image.name, {"": str(image)}, "")
    if faults := [text for _, text in task.faults(case, {str(image): facts})]:
        raise StartError(f"{bundle.name} cannot read these studies: {'; '.join(faults)}")


def judge_address(host: str, port: int, environment: Mapping[str, str]) -> None:
    """Refuse an address that others can reach without a token, and one that is taken.

    Raises:
        StartError: see above.
    """
    if not is_loopback(host) and not environment.get(TOKEN):
        raise StartError(
            f"--host {host} can be reached from other machines, and whoever reaches the server may read and change the "
            f"studies. Set a token in the environment first (export {TOKEN}=$(openssl rand -hex 32)), or stay on 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host, port))
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise StartError(f"{host}:{port} cannot be used: {why}. Choose another --port") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def command(work: Path, studies: Path, name: str, host: str, port: int) -> list[str]:
    """Arguments of MONAI Label's own command."""
    options = {"--app": work, "--studies": studies.resolve(), "--host": host, "--port": port}
    told = [str(text) for option in options.items() for text in option]
    return ["start_server", *told, "--conf", "models", name, "--uvicorn_app", "annotate.server:app"]


def environment(work: Path, name: str, host: str, port: int) -> dict[str, str]:
    """What the server and its trainings find in their environment. MONAI Label adds the work folder to ``PYTHONPATH``."""
    config = yaml.safe_load((work / "model" / name / "configs/inference.yaml").read_text(encoding="utf-8"))
    suffixes = VOLUMES if config["slices"] or config["dimensions"] == 3 else PICTURES + VOLUMES
    return {
        **SWITCHES,
        "PYTHONPATH": str(ROOT),
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps([f"*{suffix}" for suffix in suffixes]),
    }


def instructions(work: Path, studies: Path, name: str, host: str, port: int) -> str:
    """What is printed before the server starts."""
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    told = f"""
Annotation server: {address}   (ready in some 10 seconds; Ctrl-C stops it)
  images     {studies.resolve()}
  labels     {studies.resolve() / "labels/final"}
  model      {name}; its versions: python -m annotate.versions {work / "model" / name} --list
"""
    if os.environ.get(TOKEN):
        return f"""{told}
  Every request needs the token of ${TOKEN}. 3D Slicer sends none: for it start without a token on 127.0.0.1, and from
  another machine open a tunnel (docs/annotate.md, Security).
"""
    return f"""{told}
In 3D Slicer 5: install the extension MONAILabel (Extensions Manager) and restart; choose the module MONAI Label, then
  1. MONAI Label server: {address}, press the button with the arrows.
  2. Next Sample opens a scan and segments it.   3. Correct it in Segment Editor.   4. Submit Label.
  5. Train, from two labelled scans on. New weights serve only if they are no worse on the scans kept to judge by.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; returns when the server is stopped."""
    show_plainly()
    parser = argparse.ArgumentParser(prog="python -m annotate.start", description="Start the annotation server.")
    parser.add_argument("--studies", type=Path, required=True, help="folder of images, no folders in it")
    parser.add_argument("--model", help="a pretrained bundle's name, a finished bundle's folder, or METHOD:TASK.yaml")
    parser.add_argument("--work", type=Path, help="where weights and logs are kept (annotation/ in the repository)")
    parser.add_argument("--host", default="127.0.0.1", help="another than loopback needs a token")
    parser.add_argument("--port", type=int, default=8000)
    told = parser.parse_args(arguments)
    judge_address(told.host, told.port, os.environ)
    work, name = prepare(told.studies, told.model, told.work)
    print(instructions(work, told.studies, name, told.host, told.port), flush=True)
    os.environ.update(environment(work, name, told.host, told.port))  # read when MONAI Label is imported
    os.chdir(work)
    sys.path.insert(0, str(ROOT))
    sys.argv = ["monailabel", *command(work, told.studies, name, told.host, told.port)]
    from monailabel.main import Main

    Main().run()  # in this process: torch is imported once


if __name__ == "__main__":
    main()
