"""Scans a second and memory of an inference, of a bundle's own and of MONAI's stock parts, in turns.

    python -m benchmarks.inference
    python -m benchmarks.inference --threads 1 --rounds 5 --scans 30
    python -m benchmarks.inference --nnunet VENV      nnU-Net's predictor beside them, on the same network and windows

Slices for a 2D network and windows for a 3D one, on phantoms that are drawn; ``--large`` times as large along each axis for the
candidates whose memory is looked at. Writes ``inference.md``. It asserts nothing: a time belongs to its machine.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from custom import cores, markdown, phantom
from custom.errors import show_plainly
from custom.files import typed, write_text

from ..machine import machine
from ..peers.nnunet import environment
from ..speed.turns import ROOT, Worker
from . import nnunet

NOTE = (
    " nnU-Net's predictor has the same network and weights as TorchScript, the same windows\n"
    "and overlap, its own reading, grid, way back and writing, one scan after the other, without mirrored views (its default\n"
    "would compute four or eight)."
)
FORMS = {"2d": "mean_teacher", "3d": "task_affinity"}  # the bundle whose shipped weights are of that form
NNUNET = "nnU-Net's predictor"
WAYS = {"MONAI's stock parts": {"stock": True}, "ours": {}, "ours, bounded": {"bounded": True}}


def main(arguments: Sequence[str] | None = None) -> int:
    show_plainly()
    options = _parser().parse_args(arguments)
    threads = options.threads or cores.count()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, threads, Path(folder))
    words = sys.argv[1:] if arguments is None else arguments
    text = page(found, options, f"{machine(threads)}, {datetime.date.today()}", words)
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "inference.md", text)
    print(text)
    return 0


def measure(options: argparse.Namespace, threads: int, folder: Path) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Rounds of all candidates in turns, of which the first warms up and is dropped; by cohort and way."""
    workers: dict[tuple[str, str], Worker] = {}
    for form, bundle in FORMS.items():
        drawn = folder / form
        parts = {"labelled": 0, "unlabelled": options.scans, "validation": 0, "test": 0}
        phantom.draw(form, drawn, patients=parts)
        cohorts = {f"{form}, {options.scans} scans": drawn / "images"}
        cohorts[f"{form}, 1 scan {options.large} times as long"] = enlarged(
            drawn / "images", folder / f"{form}_large", options.large
        )
        for cohort, images in cohorts.items():
            for way, how in WAYS.items():
                spec = {"bundle": bundle, "task": f"scripts/tasks/phantom_{form}.yaml", "images": str(images),
                        "out": str(folder / "out" / f"{len(workers)}"), "stock": how.get("stock", False),
                        "memory_gb": options.memory_gb if how.get("bounded") else None}  # fmt: skip
                log = folder / f"{len(workers)}.log"
                workers[cohort, way] = Worker("worker", spec, threads, log, package=__package__)
            if options.nnunet is not None:
                python, _ = environment(options.nnunet, options.nnunet)
                prepared = nnunet.prepare(form, bundle, python, folder / f"nnunet_{len(workers)}", threads)
                named = nnunet.named(images, folder / f"named_{len(workers)}")
                spec = {**prepared, "images": str(named), "out": str(folder / "out" / f"{len(workers)}")}
                log = folder / f"{len(workers)}.log"
                workers[cohort, NNUNET] = Worker(nnunet.WORKER, spec, threads, log, python=python)
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {key: [] for key in workers}
    for number in range(options.rounds + 1):
        for key, worker in workers.items():
            turn = worker.turn()
            if number:
                found[key].append(turn)
        print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
    for worker in workers.values():
        worker.end()
    return found


def enlarged(images: Path, folder: Path, times: int) -> Path:
    """A folder with the first image, each voxel of it several along each of its first axes, and along the third in 3D."""
    import nibabel

    folder.mkdir()
    image = nibabel.load(sorted(images.iterdir())[0])
    voxels = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    for axis in range(3):
        voxels = voxels.repeat(times, axis)
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), folder / "large.nii.gz")  # type: ignore[attr-defined]
    return folder


def page(
    found: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    options: argparse.Namespace,
    where: str,
    words: Sequence[str],
) -> str:
    rows = []
    for (cohort, way), turns in found.items():
        rate = median(turn["scans"] / turn["seconds"] for turn in turns)
        spread = [turn["scans"] / turn["seconds"] for turn in turns]
        rows.append(
            [cohort, way, f"{rate:.3g}", f"{min(spread):.3g} to {max(spread):.3g}", f"{turns[-1]['peak'] / 1e9:.2f}"]
        )
    table = markdown.table(["cohort", "way", "scans a second", "rounds", "peak, GB"], rows, texts=2)
    return f"""# What an inference costs

Medians of {options.rounds} rounds in turns, each candidate a process of its own; {where}. Time is that of
reading, network, way back and writing; peak is that of the process, libraries and what is read before included.
Bounded: `memory_gb` {options.memory_gb}.{NOTE if options.nnunet else ""}

    {" ".join(["python -m benchmarks.inference", *words])}

{table}
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="that count; one more warms up")
    add("--scans", type=int, default=20, help="of a cohort")
    add(
        "--large",
        type=int,
        default=3,
        help="times as many voxels along each axis of the scan whose memory is looked at",
    )
    add("--memory_gb", type=float, default=1.2, help="of the bounded candidate")
    add("--nnunet", type=typed, help="an environment with nnU-Net; left out, its predictor is not measured")
    add("--threads", type=int, default=0, help="of the processor; 0: all")
    add("--out", type=Path, default=ROOT / "benchmarks/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
