"""What grows with a cohort: start-up, time of a step, memory, against the number of scans, their size, the classes.

    python -m benchmarks.growth                                   100 to 100,000 unlabelled scans, in memory and on disk
    python -m benchmarks.growth --scans 100 1000 --sides 64 --classes 4

Scans are drawn: noise that follows from a number, which is what their file holds. Each cell is a process of its own; one
thread. Writes ``growth.md`` and ``growth.png``. It asserts nothing: a time belongs to its machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom.errors import show_plainly
from custom.files import write_text
from custom.markdown import table

from .machine import machine

ROOT = Path(__file__).resolve().parents[1]
BATCH, PATCH = 8, 48
CELL = {"scans": 1000, "side": 64, "axes": 2, "classes": 4}
HEADS = ("unlabelled scans", "pixels", "classes", "kept", "first start, s", "further start, s", "batch, ms", "step, ms",
         "memory, MB", "on disk, MB")  # fmt: skip


class Drawn:
    """The transform: a file's number becomes an image, and a label of as many stripes as there are classes."""

    def __init__(self, side: int, axes: int, classes: int) -> None:
        self.shape, self.classes = (side,) * axes, classes

    def __call__(self, case: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        number = int(Path(case["image"]).read_text(encoding="utf-8"))
        image = torch.rand(1, *self.shape, generator=torch.Generator().manual_seed(number))
        if "label" not in case:
            return {"image": image}
        stripes = torch.arange(self.shape[0]) * self.classes // self.shape[0]
        return {"image": image, "label": stripes.reshape(1, -1, *[1] * (len(self.shape) - 1)).expand(1, *self.shape)}


def files(folder: Path, count: int) -> list[str]:
    """That many scans, as far as they are not there."""
    paths = [folder / f"{number // 1000:03d}" / f"{number:06d}.nii" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(number), encoding="utf-8")
    return [str(path) for path in paths]


def measure(spec: Mapping[str, Any]) -> dict[str, float]:
    """One cell, in this process: seconds of the start, of a batch, of a step, and the bytes held at most."""
    import torch
    from monai.losses import DiceCELoss

    from custom.losses import ConsistencyLoss
    from custom.methods import MeanTeacher
    from custom.methods.schedule import Progress
    from custom.networks import UNet
    from custom.stream.bank import Bank
    from custom.stream.storage import Storage
    from custom.stream.stream import Stream

    before = _held()
    folder, axes = Path(spec["folder"]), spec["axes"]
    transform = Drawn(spec["side"], axes, spec["classes"])
    paths = files(folder / "scans", spec["scans"])
    storage = Storage(spec["share"], str(folder / f"cache_{spec['side']}_{axes}"))
    labelled = Bank([{"image": p, "label": p} for p in paths[:10]], transform)
    unlabelled = Bank([{"image": p} for p in paths], transform, ("image",), storage=storage, workers=2)
    began = time.perf_counter()
    unlabelled.load()
    unlabelled.digest()
    start = time.perf_counter() - began
    patch = [min(PATCH if axes == 2 else 32, spec["side"])] * axes
    streams = [Stream(labelled, BATCH, patch, foreground=0.5), Stream(unlabelled, BATCH, patch, name="unlabelled")]
    network = UNet(spatial_dims=axes, in_channels=1, out_channels=spec["classes"], widths=[8, 16], dropout=[0.0, 0.0])
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    method = MeanTeacher(network, loss, ConsistencyLoss(), view="noise")
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01)
    batches, steps = [], []
    for _ in range(spec["steps"]):
        began = time.perf_counter()
        pair = [stream.draw() for stream in streams]
        batches.append(time.perf_counter() - began)
        terms = method(*pair, Progress(0, 1, 1, 1))
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        steps.append(time.perf_counter() - began)
    size = sum(unlabelled._scan(case).bytes for case in range(len(unlabelled)))
    return {"start": start, "batch": statistics.median(batches), "step": statistics.median(steps), "held": _held() - before,
            "bytes": size}  # fmt: skip


def _held() -> float:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The number of scans on both places, then one of the others at a time."""
    both = [{**CELL, "scans": scans, "share": share} for scans in options.scans for share in (0.0, 1.0)]
    sides = [{**CELL, "side": side, "axes": axes, "scans": 100, "share": 0.0} for axes, side in options.sides]
    classes = [{**CELL, "classes": number, "scans": 100, "share": 0.0} for number in options.classes]
    return [*both, *sides, *classes]


def run(spec: Mapping[str, Any]) -> dict[str, float]:
    """:func:`measure` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.growth", "--cell", json.dumps(dict(spec))]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def page(
    found: Sequence[tuple[Mapping[str, Any], Mapping[str, float], Mapping[str, float]]], where: str, command: str
) -> str:
    """Markdown; each cell with its first and its further start."""
    rows = [
        [f"{spec['scans']:,}", " x ".join([str(spec["side"])] * spec["axes"]), str(spec["classes"]),
         "in memory" if spec["share"] else "on disk", f"{first['start']:.1f}" if first else "-", f"{later['start']:.2f}",
         f"{1000 * later['batch']:.1f}", f"{1000 * later['step']:.1f}", f"{later['held'] / 1e6:.0f}",
         f"{later['bytes'] / 1e6:.1f}"]
        for spec, first, later in found
    ]  # fmt: skip
    return "\n\n".join([
        "# What grows with a cohort",
        f"{where}. A step: {BATCH} labelled and as many unlabelled patches, U-Net of widths 8, 16, mean teacher. "
        "Memory: at most, without libraries. The first start draws and writes the scans, a further one finds them.",
        f"    {command}",
        table(HEADS, rows, texts=4),
    ]) + "\n"  # fmt: skip


def plot(found: Sequence[tuple[Mapping[str, Any], Mapping[str, float], Mapping[str, float]]], png: Path) -> None:
    """Draw the two starts, batch and step, and memory against the number of scans."""
    from matplotlib.figure import Figure

    from custom.report.palette import LINE_COLOURS
    from custom.report.plots import save_png

    rows = [cell for cell in found if all(cell[0][key] == CELL[key] for key in ("side", "axes", "classes"))]
    figure = Figure(figsize=(9, 3), dpi=110, layout="constrained")
    panels = (("start of a further run, s", "start", 1.0), ("batch, ms", "batch", 1e3), ("memory, MB", "held", 1e-6))
    for axis, (title, key, factor) in zip(figure.subplots(1, 3), panels, strict=True):
        for colour, (share, name) in zip(LINE_COLOURS, ((1.0, "in memory"), (0.0, "on disk")), strict=False):
            line = sorted((spec["scans"], factor * later[key]) for spec, _, later in rows if spec["share"] == share)
            axis.plot(*zip(*line, strict=True), color=colour, marker="o", label=name)
        axis.set(title=title, xscale="log", xlabel="unlabelled scans")
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save_png(figure, png)


def main(arguments: Sequence[str] | None = None) -> int:
    show_plainly()
    options = _parser().parse_args(arguments)
    if options.cell:
        print(json.dumps(measure(json.loads(options.cell))))
        return 0
    found = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for spec in cells(options):
            place = {**spec, "folder": folder, "steps": options.steps}
            if not spec["share"]:  # those in memory find what those on disk have left
                for cache in Path(folder).glob("cache_*"):
                    shutil.rmtree(cache)
            first = {} if spec["share"] else run(place)
            found.append((spec, first, run(place)))
            print(page(found[-1:], "", "").splitlines()[-1], flush=True)
    where = f"{machine(1)}, {datetime.date.today()}"
    words = sys.argv[1:] if arguments is None else arguments
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "growth.md", page(found, where, " ".join(["python -m benchmarks.growth", *words])))
    plot(found, options.out / "growth.png")
    return 0


def _side(text: str) -> tuple[int, int]:
    side, _, axes = text.partition("^")
    return int(axes or 2), int(side)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description="What grows with a cohort.")
    parser.add_argument("--scans", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000], metavar="N")
    parser.add_argument(
        "--sides", type=_side, nargs="*", default=[(2, 256), (2, 1024), (3, 64), (3, 160)], metavar="SIDE^AXES"
    )
    parser.add_argument("--classes", type=int, nargs="*", default=[2, 16], metavar="K")
    parser.add_argument("--steps", type=int, default=30, help="of each cell (default %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="where scans and caches lie meanwhile (default: of temporary files)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
