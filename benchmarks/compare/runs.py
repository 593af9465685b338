"""One run of one bundle on one data list: train, evaluate on the test part, write its row."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from custom.evaluation.case_report import BOUNDARY, CONTRAST, COUNTS, LABEL
from custom.evaluation.case_table import read_cases
from custom.files import write_text
from custom.study.side_by_side import Late

ROOT = Path(__file__).resolve().parents[2]
SIZES = ROOT / "benchmarks/sizes.yaml"
MEMORY = 0.6  # of the free memory, for the scans of all runs side by side
CONFIG = "bundle/configs/train.yaml"  # what a training ran with
DONE = (CONFIG, "bundle/run.json", "cost.json")  # the two last: the last files of a training and of its call
QUIET = "ignore:parsing config_file"  # of MONAI
VARIANT = ("bundle", "overrides", "published", "times", "baseline", "tasks")

Start = Callable[[list[str], Path, Path], tuple[int, int]]  # command, folder, log: exit code, MB; see side_by_side.Pool


@dataclass(frozen=True)
class Job:
    """A run: which bundle (or variant of one), on which task with how many labels, of which size, from which seed."""

    size: str
    task: str
    labels: str  # in the name of the list: TASK_LABELS.json; empty for a phantom, which is drawn
    name: str
    seed: int
    bundle: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    published: bool = False  # with the overlay configs/published.yaml

    def __str__(self) -> str:
        return f"{self.size}_{self.data}_{self.name}_seed{self.seed}"

    @property
    def data(self) -> str:
        return f"{self.task}_{self.labels}" if self.labels else self.task


def job_of(size: str, task: str, name: str, seed: int, sizes: Mapping[str, Any]) -> Job:
    """Name a run: ``task`` is ``acdc:7``, or a phantom's name; ``name`` a bundle or a variant of ``sizes.yaml``.

    Raises:
        ValueError: neither; a size or a task that ``sizes.yaml`` does not name.
    """
    kind, _, labels = task.partition(":")
    if size not in sizes["sizes"]:
        raise ValueError(f"size {size}: there are {', '.join(sizes['sizes'])}")
    tasks = sizes["sizes"][size]
    if kind not in tasks:
        raise ValueError(f"task {kind}: size {size} names {', '.join(tasks)}")
    variant = sizes["variants"].get(name, {"bundle": name})
    if not (ROOT / "bundles" / variant["bundle"] / "configs/train.yaml").is_file():
        known = sorted(path.name for path in (ROOT / "bundles").iterdir()) + list(sizes["variants"])
        raise ValueError(f"no bundle or variant {name}: there are {', '.join(known)}")
    overrides = {**tasks[kind], **variant.get("overrides", {})}
    if "times" in variant and "steps" in overrides:
        overrides["steps"] = round(overrides["steps"] * variant["times"])
    return Job(size, kind, labels, name, seed, variant["bundle"], overrides, variant.get("published", False))


def fits(job: Job, sizes: Mapping[str, Any]) -> bool:
    """Whether a variant is meant for the task."""
    return job.task in sizes["variants"].get(job.name, {}).get("tasks", [job.task])


def read_sizes(path: Path = SIZES) -> dict[str, Any]:
    """Read ``sizes`` (name: ``{task: overrides}``) and ``variants`` (name: ``bundle`` and any other of :data:`VARIANT`).

    Raises:
        ValueError: no such file, or a key that is not one of these; the text names it.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = content.get("sizes") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(isinstance(tasks, dict) for tasks in found.values()):
        raise ValueError(f"{path} needs sizes: a name each, and in it tasks with what they override")
    sizes = {size: {task: overrides or {} for task, overrides in tasks.items()} for size, tasks in found.items()}
    variants = content.get("variants") or {}
    for name, variant in variants.items():
        if not isinstance(variant, dict) or "bundle" not in variant or variant.keys() - VARIANT:
            raise ValueError(
                f"{path}: variant {name} is {variant}. It needs bundle, and may have {', '.join(VARIANT[1:])}"
            )
    return {"sizes": sizes, "variants": variants}


def run(job: Job, lists: Path, folder: Path, start: Start, go_on: bool, at_once: int = 1) -> dict[str, Any]:
    """Train and evaluate what is not done yet; return the row. A finished run of other settings than the job's is said,
    set aside by the training, and done anew.

    Args:
        lists: folder of the data lists.
        folder: of this run.
        start: runs a command to its end, on the cores that this run has.
        go_on: from the checkpoint of an earlier call; else an unfinished run starts again.
        at_once: how many run side by side: they share their preprocessed scans and the free memory, which all of them see.

    Raises:
        Late: the budget ended; the run goes on from its last checkpoint in the next call.
        RuntimeError: a command failed; its output is in ``folder/log.txt``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    overrides: dict[str, Any] = {**job.overrides, "seed": job.seed, "output_dir": folder}
    overrides |= {"data_list": lists / f"{job.data}.json"} if job.labels else {"dataset_dir": lists}
    if at_once > 1:
        overrides |= {"cache_dir": folder.parent / "cache", "memory_share": round(MEMORY / at_once, 3)}
    overlay = ["configs/published.yaml"] if job.published else []
    files = ["configs/train.yaml", *overlay, f"scripts/tasks/{job.task}.yaml"]
    finished = all((folder / name).exists() for name in DONE)
    # what is not finished the training judges itself, before it goes on
    if others := differences(job, folder, files) if finished else []:
        print(f"{job}: {folder} holds a run of other settings, which is set aside: {others[0]}", flush=True)
    if others or not finished:
        resume = go_on and not others and any(folder.glob("last_*.pt"))
        earlier = json.loads((folder / "cost.json").read_text()) if resume and (folder / "cost.json").exists() else {}
        try:
            peak_mb = _command(job.bundle, "training", files, {**overrides, "resume": resume}, folder, start)
        except Late as stopped:
            _keep_cost(folder, stopped.peak_mb, earlier)
            raise
        _keep_cost(folder, peak_mb, earlier)
    if not (folder / "evaluation/test/summary.json").exists():
        _command(job.bundle, "run", [*files, "configs/evaluate.yaml"], overrides, folder, start)
    return row(job, folder)


def differences(job: Job, folder: Path, files: Sequence[str]) -> list[str]:
    """Return in which settings a folder's run is not the one of the job.

    Args:
        job: what is to be run.
        folder: of the run.
        files: the config files of the job, as seen from its bundle.
    """
    from monai.bundle import ConfigParser  # takes seconds, and most calls have no such folder

    from custom.run import checkpoint
    from custom.run.config import RunConfig

    bundle = ROOT / "bundles" / job.bundle
    now = ConfigParser(ConfigParser.load_config_files([str(bundle / name) for name in files]))
    now.update({**job.overrides, "seed": job.seed})
    made = ConfigParser(ConfigParser.load_config_file(str(folder / CONFIG)))
    return checkpoint.differences(RunConfig(made).config, RunConfig(now).config, RunConfig.FREE)


def _keep_cost(folder: Path, peak_mb: int, earlier: Mapping[str, Any]) -> None:
    """Memory, commits and date of a training, of all calls that it took."""
    commits = list(dict.fromkeys([*earlier.get("commit", "").split(), revision()]))
    cost = {"peak_mb": max(peak_mb, earlier.get("peak_mb", 0)), "commit": " ".join(commits), "date": str(date.today())}
    write_text(folder / "cost.json", json.dumps(cost) + "\n")


def row(job: Job, folder: Path) -> dict[str, Any]:
    """What a finished run was and found, except its machine; ``networks`` and ``cases`` by the file of weights."""
    cost = json.loads((folder / "cost.json").read_text())
    about = json.loads((folder / "bundle/run.json").read_text())
    test = folder / "evaluation/test"
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        epochs = list(csv.DictReader(file))
    validated = [
        {"step": int(e["step"]), **{k.removeprefix("val/"): float(v) for k, v in e.items() if k.endswith("/dice_mean") and v}}
        for e in epochs
    ]  # fmt: skip
    files = sorted(path.stem for path in test.glob("*.csv") if not path.stem.endswith(".compat"))
    return {
        "size": job.size, "task": job.task, "labels": job.labels, "name": job.name, "bundle": job.bundle, "seed": job.seed,
        "overrides": dict(job.overrides), "steps": int(epochs[-1]["step"]),
        "date": cost["date"], "commit": cost["commit"], "versions": about["versions"],
        "seconds": round(sum(float(e["seconds"]) for e in epochs), 1),
        "validation_seconds": round(sum(float(e["validation_seconds"] or 0) for e in epochs if "validation_seconds" in e), 1),
        "peak_mb": cost["peak_mb"],
        "served_as": about["networks"], "best_in_validation": about["best in validation"],
        "validation": [v for v in validated if len(v) > 1],
        "networks": {name: json.loads((test / f"{name}.json").read_text()) for name in files},
        "cases": {name: [_compact(case) for case in read_cases(test / f"{name}.csv")] for name in files},
    }  # fmt: skip


def _compact(case: Mapping[str, Any]) -> dict[str, Any]:
    """A case with what is compared, rounded; a number that is not there is null."""
    names = ("case", "patient", *COUNTS, "hd95_mm_mean", BOUNDARY, CONTRAST, LABEL)
    kept = {k: v for k, v in case.items() if k in names or k.startswith("dice_")}
    return {k: (None if math.isnan(v) else round(v, 5)) if isinstance(v, float) else v for k, v in kept.items()}


def revision() -> str:
    """Return the commit of the repository, with ``+`` where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.strip() + ("+" if dirty else "")


def _command(
    bundle: str, run_id: str, files: list[str], overrides: Mapping[str, Any], folder: Path, start: Start
) -> int:
    """Run ``cd bundles/NAME && python -m monai.bundle run ...``; return its peak of memory in MB.

    Raises:
        Late: it was stopped at the deadline: what the last whole epoch left is on disk.
        RuntimeError: it failed.
    """
    config = "[" + ",".join(f"'{name}'" for name in files) + "]"
    arguments = [f"--{key}={value}" for key, value in overrides.items()]
    command = [sys.executable, "-W", QUIET, "-m", "monai.bundle", "run", run_id, "--config_file", config, *arguments]
    code, peak_mb = start(command, ROOT / "bundles" / bundle, folder / "log.txt")
    if code:
        tail = (folder / "log.txt").read_text(errors="replace")[-1500:]
        raise RuntimeError(f"{run_id} ended with {code}; the end of {folder / 'log.txt'}:\n{tail}")
    return peak_mb
