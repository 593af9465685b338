"""Time a training step of one process and of several that share each step's gradients (Gloo, one thread each), in turns.

    python -m benchmarks.scaling                          one and two processes, 3 turns each: benchmarks/results/scaling.md
    python -m benchmarks.scaling --processes 1 2 4 8      on a machine with as many cores

Each run is a bundle's, on a phantom, as ``docs/scale.md`` starts it. A process has a batch of its own: n processes see n times
as many patches in a step. It asserts nothing: a time belongs to its machine, and to what else runs there.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom import cores
from custom.errors import UserError, show_plainly
from custom.files import write_text
from custom.markdown import table

from .machine import machine

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks/results/scaling.md"
RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


class ScalingError(UserError, RuntimeError):
    """A run failed, or was asked for on too few cores."""


def main(arguments: Sequence[str] | None = None) -> int:
    show_plainly()
    options = _parser().parse_args(arguments)
    if max(options.processes) > cores.count():
        raise ScalingError(
            f"--processes {max(options.processes)}: there are {cores.count()} cores, one for each process"
        )
    settings = {"steps": 3 * options.steps, "epoch_steps": options.steps, "val_interval": 3}
    found: dict[int, list[float]] = {count: [] for count in options.processes}
    busy = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.turns):
            for count in options.processes:
                out = Path(folder) / f"{turn}_{count}"
                found[count] += measure(options.bundle, count, settings, out, Path(folder) / "data")
                busy.append(os.getloadavg()[0])
    words = sys.argv[1:] if arguments is None else arguments
    text = page(found, options.bundle, options.steps, " ".join(["python -m benchmarks.scaling", *words]), busy)
    write_text(options.out, text)
    print(text)
    return 0


def measure(bundle: str, processes: int, settings: Mapping[str, Any], out: Path, data: Path) -> list[float]:
    """Seconds of a step in each epoch except the first, which warms up.

    Raises:
        ScalingError: the run failed; the text has the end of its log.
    """
    out.mkdir()
    files = "['configs/train.yaml','configs/multi_gpu_train.yaml']"
    overrides = {**settings, "output_dir": out / "run", "dataset_dir": data, "amp": "off"}
    command = [
        *RUN,
        "--nproc_per_node",
        str(processes),
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        files,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with (out / "log").open("w") as log:
        code = subprocess.run([*command, *(f"--{name}={value}" for name, value in overrides.items())],
                              cwd=ROOT / "bundles" / bundle, env=environment, stdout=log, stderr=log).returncode  # fmt: skip
    if code:
        raise ScalingError(f"{processes} process(es) ended with {code}:\n{(out / 'log').read_text()[-1500:]}")
    return seconds_of_steps((out / "run/metrics.csv").read_text(encoding="utf-8"))


def seconds_of_steps(metrics: str) -> list[float]:
    """Seconds of a step in each row of a run's table except the first; without validation."""
    rows = list(csv.DictReader(metrics.splitlines()))
    steps = [int(row["step"]) for row in rows]
    net = [float(row["seconds"]) - float(row.get("validation_seconds") or 0) for row in rows]
    return [seconds / (after - before) for seconds, before, after in zip(net[1:], steps, steps[1:], strict=False)]


def page(found: Mapping[int, Sequence[float]], bundle: str, steps: int, command: str, busy: Sequence[float]) -> str:
    """The table: a row a number of processes, compared with the smallest of them."""
    least = min(found)
    base = statistics.median(found[least])
    rows = []
    for count in sorted(found):
        step = statistics.median(found[count])
        faster = count / least * base / step
        rows.append([str(count), f"{1000 * step:.0f}", f"{1000 * min(found[count]):.0f} to {1000 * max(found[count]):.0f}",
                     f"{faster:.2f}", f"{100 * faster * least / count:.0f} %"])  # fmt: skip
    head = ["Processes", "Step, ms", "Smallest to largest", "Patches a second, times", "Efficiency"]
    where = f"{machine(1)}, {datetime.date.today()}"
    return (
        "# What a second process brings\n\n"
        f"A step of `{bundle}` on its phantom, each process with a batch of its own, one thread and its share of the machine; "
        f"Gloo. Medians over epochs of {steps} steps, in turns. {where}; load average before and between the runs "
        f"{min(busy):.1f} to {max(busy):.1f} (of processes that would run, these included: above the number of cores the times "
        "are those of a busy machine).\n\n"
        f"    {command}\n\n{table(head, rows, texts=0)}\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--processes", type=int, nargs="+", default=[1, 2])
    add("--bundle", default="supervised")
    add("--steps", type=int, default=10, help="of an epoch; a run has three")
    add("--turns", type=int, default=3)
    add("--out", type=Path, default=OUT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
