"""Start the annotation server on a folder of images: ``python -m annotate.start --studies DIR``, or ``make annotate``.

Everything that is written lies in a work folder: the bundle in ``model/NAME`` with the versions of its weights, logs. It is
made once and kept, so that retrained weights survive a restart. MONAI Label itself keeps labels and an index in DIR:
``labels/final/``, ``datastore_v2.json``. Nothing is fetched from anywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import ipaddress
import json
import os
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from annotate import study
from annotate.models import ROOT, StartError, expanded, install, judge_model, judge_source, model_name, recommended
from annotate.uploads import turned
from custom.cohort.formats.exif import exif_orientation
from custom.errors import MissingPackages, show_plainly
from custom.files import typed

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


def judge_environment() -> None:
    """Refuse a Python without MONAI Label, before a work folder is made that nothing could serve.

    Raises:
        MissingPackages: it has none.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise MissingPackages(
            f"this Python ({sys.executable}) has no monailabel, which needs an environment of its own. Start the server with "
            "make annotate STUDIES=DIR (or STUDY=DIR), which makes that environment, .venv-annotate, and uses it"
        )


def prepare(
    studies: Path, model: str | None, work: Path | None, name: str = "", names: Mapping[Path, str] | None = None
) -> tuple[Path, str]:
    """Make the work folder, or find it again; returns it and the model's name.

    Args:
        name: of the model in the work folder; empty: by what it is.
        names: of images, by file, where the file has another.

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
    model = expanded(model or recommended())
    name = name or model_name(model)
    bundle = work / "model" / name
    if bundle.is_dir():
        judge_source(model, bundle)
    else:
        install(model, bundle, names or {})
    judge_model(bundle, images[0])
    (work / "main.py").write_text("from annotate.main import AnnotateApp  # MONAI Label looks for its app here\n")
    return work, name


def judge_studies(studies: Path) -> list[Path]:
    """Return the images of the folder.

    Raises:
        StartError: it does not exist, cannot be written, or holds no image itself; pictures that 3D Slicer would show
            otherwise than viewers do.
    """
    if not studies.is_dir():
        raise StartError(f"--studies {studies} is not a folder. Give the folder that holds the images")
    images = sorted(p for p in studies.iterdir() if p.is_file() and p.name.endswith(VOLUMES + PICTURES))
    if not images:
        below = sum(1 for p in studies.rglob("*") if p.name.lower().endswith(VOLUMES + PICTURES))
        found = f"{below} lie below it or end in capitals: images must lie in DIR itself" if below else "found none"
        raise StartError(f"--studies {studies}: expected images ({' '.join(VOLUMES + PICTURES)}), {found}")
    if not os.access(studies, os.W_OK):
        raise StartError(
            f"--studies {studies} cannot be written: labels are kept below it. Make it writable, or copy the images"
        )
    if odd := [image for image in images if image.name.endswith(PICTURES) and exif_orientation(image) != 1]:
        raise StartError(f"--studies {studies}: {len(odd)} of {len(images)} pictures are not upright; {turned(odd[0])}")
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
    """Return whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def command(work: Path, studies: Path, name: str, host: str, port: int) -> list[str]:
    """Return the arguments of MONAI Label's own command."""
    options = {"--app": work, "--studies": studies.resolve(), "--host": host, "--port": port}
    words = [str(text) for option in options.items() for text in option]
    return ["start_server", *words, "--conf", "models", name, "--uvicorn_app", "annotate.server:app"]


def environment(work: Path, name: str, host: str, port: int) -> dict[str, str]:
    """What the server and its trainings find in their environment. MONAI Label adds the work folder to ``PYTHONPATH``."""
    config = yaml.safe_load((work / "model" / name / "configs/inference.yaml").read_text(encoding="utf-8"))
    suffixes = VOLUMES if config["slices"] or config["dimensions"] == 3 else PICTURES + VOLUMES
    return {
        **SWITCHES,
        "PYTHONPATH": str(ROOT),
        # A client keeps a result under the server's name for it: in a folder that both use, the server would remove it.
        "TMPDIR": str(work.resolve() / "tmp"),
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps([f"*{suffix}" for suffix in suffixes]),
    }


def instructions(work: Path, studies: Path, name: str, host: str, port: int) -> str:
    """Return what is printed before the server starts."""
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    head = f"""
Annotation server: {address}   (ready in some 10 seconds; Ctrl-C stops it)
  images     {studies.resolve()}
  labels     {studies.resolve() / "labels/final"}
  model      {name}; its versions: python -m annotate.versions {work / "model" / name} --list
"""
    if os.environ.get(TOKEN):
        return f"""{head}
  Every request needs the token of ${TOKEN}. 3D Slicer sends none: for it start without a token on 127.0.0.1, and from
  another machine open a tunnel (docs/annotate.md, Security).
"""
    return f"""{head}
In 3D Slicer 5: install the extension MONAILabel (Extensions Manager) and restart; choose the module MONAI Label, then
  1. MONAI Label server: {address}, press the button with the arrows.
  2. Next Sample opens a scan and segments it.   3. Correct it in Segment Editor.   4. Submit Label.
  5. Train, from two labelled scans on. New weights serve only if they are no worse on the scans kept to judge by.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; returns when the server is stopped."""
    show_plainly()
    parser = argparse.ArgumentParser(prog="python -m annotate.start", description="Start the annotation server.")
    parser.add_argument("--studies", type=typed, help="folder of images, no folders in it")
    parser.add_argument(
        "--study", type=typed, help="of python -m custom.study: its images, its bundle, its order of scans"
    )
    parser.add_argument("--model", help="a pretrained bundle's name, a finished bundle's folder, or METHOD:TASK.yaml")
    parser.add_argument("--work", type=typed, help="where weights and logs are kept (annotation/ in the repository)")
    parser.add_argument("--host", default="127.0.0.1", help="another than loopback needs a token")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    if bool(options.study) == bool(options.studies):
        parser.error("say where the images are: --studies DIR, or --study DIR")
    judge_environment()
    judge_address(options.host, options.port, os.environ)
    of_study = study.read(options.study) if options.study else None
    name = of_study.name if of_study and not options.model else ""
    if of_study:
        study.link_images(of_study)
        options.studies, options.model = of_study.images, options.model or str(of_study.bundle)
        if of_study.data_set:  # the folders of links of all studies have one name
            options.work = options.work or default_work(options.study)
    work, name = prepare(options.studies, options.model, options.work, name, of_study.names if of_study else None)
    if of_study and (copied := study.hand_over(of_study, work)):
        print(
            f"{copied} labels of the study were copied to {of_study.images / study.CORRECTED}, where the server reads them."
        )
    print(instructions(work, options.studies, name, options.host, options.port), flush=True)
    os.environ.update(environment(work, name, options.host, options.port))  # read when MONAI Label is imported
    Path(os.environ["TMPDIR"]).mkdir(exist_ok=True)
    tempfile.tempdir = None  # it is remembered from its first use
    os.chdir(work)
    sys.path.insert(0, str(ROOT))
    sys.argv = ["monailabel", *command(work, options.studies, name, options.host, options.port)]
    from monailabel.main import Main

    Main().run()  # in this process: torch is imported once


if __name__ == "__main__":
    main()
