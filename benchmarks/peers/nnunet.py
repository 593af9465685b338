"""nnU-Net as its users run it: an environment of its own, its planner, its preprocessing, its trainer, its predictor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from custom.files import write_text

from .cohort import DATASET, Cohort, PeersError, bring_back, write_raw

WORKER = Path(__file__).with_name("in_nnunet.py")
_TAIL = 12  # lines of a log that an error shows


def environment(venv: Path | None, made: Path) -> tuple[Path, str]:
    """The Python of nnU-Net's environment and nnU-Net's version; without ``venv`` it is made in ``made``, some 2 GB.

    Raises:
        PeersError: there is no nnU-Net in ``venv``.
    """
    python = (venv or made) / "bin/python"
    if version := _version(python):
        return python, version
    if venv is not None:
        raise PeersError(f"there is no nnU-Net in {venv}: `{python} -c 'import nnunetv2'` fails. Leave --nnunet out to have an "
                         f"environment made, or: {venv}/bin/pip install nnunetv2")  # fmt: skip
    print(f"Making an environment for nnU-Net: {made}", flush=True)
    made.mkdir(parents=True, exist_ok=True)
    log, pip = made / "install.log", [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    command([sys.executable, "-m", "venv", str(made)], log)
    command([*pip, f"torch=={torch.__version__.split('+')[0]}"], log)  # ours, so that both compute with the same
    command([*pip, "nnunetv2"], log)
    return environment(made, made)


def _version(python: Path) -> str:
    if not python.is_file():
        return ""
    ask = "import nnunetv2; from importlib.metadata import version; print(version('nnunetv2'))"
    found = subprocess.run([str(python), "-c", ask], capture_output=True, text=True)
    return found.stdout.strip().splitlines()[-1] if found.returncode == 0 else ""


def run(cohort: Cohort, python: Path, folder: Path, budget: float, threads: int, seed: int) -> dict[str, Any]:
    """Plan, preprocess and train in ``budget`` seconds, predict; what is done already is not done again.

    Returns:
        ``training_seconds`` of all except the predictions, ``inference_seconds`` of all scans, and what
        :func:`in_nnunet.train` says. The predictions are in ``folder/label_maps``, on the grids of the images' files.

    Raises:
        PeersError: one of nnU-Net's commands failed.
    """
    done = folder / "done.json"
    if done.is_file():
        return json.loads(done.read_text())
    configuration = "2d" if cohort.flat else "3d_fullres"
    places = {
        name: folder / name.removeprefix("nnUNet_") for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }
    around = {**os.environ, **{name: str(path) for name, path in places.items()}, "OMP_NUM_THREADS": str(threads),
              "nnUNet_n_proc_DA": str(threads), "nnUNet_def_n_proc": str(threads), "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    raw, log = write_raw(cohort, places["nnUNet_raw"]), folder / "log.txt"
    planned, started = folder / "planned.json", time.time()
    if not planned.is_file():
        workers = [word for name in ("-npfp", "-np") for word in (name, str(threads))]
        command(
            [str(python.with_name("nnUNetv2_plan_and_preprocess")), "-d", "1", "-c", configuration, *workers],
            log,
            around,
        )
        write_text(planned, json.dumps(time.time() - started))
    if threads == 1:  # its loader in the process itself; the planner refuses a 0
        around["nnUNet_n_proc_DA"] = "0"
    planning = json.loads(planned.read_text())
    spec: dict[str, Any] = {
        "configuration": configuration, "threads": threads, "seed": seed, "budget": budget - planning,
        "preprocessed": str(places["nnUNet_preprocessed"] / DATASET), "images": str(raw / "imagesTs"),
        "model": str(places["nnUNet_results"] / DATASET / f"nnUNetTrainer__nnUNetPlans__{configuration}"),
        "predicted": str(folder / "predicted"),
    }  # fmt: skip
    if spec["budget"] <= 0:
        raise PeersError(
            f"nnU-Net's planning and preprocessing took {planning:.0f} s, more than the budget of {budget:.0f} s"
        )
    trained, predicted = (_answer(python, what, spec, folder, around) for what in ("train", "predict"))
    bring_back(cohort, folder / "predicted", folder / "label_maps")
    found = {**trained, "configuration": configuration, "training_seconds": planning + trained["seconds"],
             "inference_seconds": predicted["seconds"]}  # fmt: skip
    write_text(done, json.dumps(found, indent=1) + "\n")
    return found


def _answer(python: Path, what: str, spec: dict[str, Any], folder: Path, around: dict[str, str]) -> dict[str, Any]:
    """What the worker found, now or in an earlier call."""
    answer, file = folder / f"{what}.json", folder / f"{what}_spec.json"
    if not answer.is_file():
        write_text(file, json.dumps({**spec, "answer": str(answer), "started": time.time()}, indent=1) + "\n")
        command([str(python), str(WORKER), what, str(file)], folder / "log.txt", around)
    return json.loads(answer.read_text())


def command(words: Sequence[str], log: Path, around: dict[str, str] | None = None) -> None:
    """Run a command to its end; one that is left, as by Ctrl-C, ends with all that it started.

    Raises:
        PeersError: it failed; the text has the end of ``log``.
    """
    with log.open("ab") as file:
        child = subprocess.Popen(
            words, env=around, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
    if child.returncode:
        tail = "\n  ".join(log.read_text(errors="replace").rstrip().splitlines()[-_TAIL:])
        raise PeersError(f"{' '.join(map(str, words[:3]))} ended with {child.returncode}; the end of {log}:\n  {tail}")
