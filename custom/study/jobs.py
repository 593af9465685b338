"""The trainings of a study as commands: what each one is, and running those that are missing, some at a time."""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..cohort.data_list import record_path
from ..cohort.facts import Facts
from ..cohort.fingerprint import image_files
from ..cohort.formats import files_of
from ..cohort.record import Record, signature
from ..cores import Share
from ..files import FileError, entries, write_text
from ..inference import confidence
from ..pace import Pace
from ..run.folder import RunFolder
from .settings import BUNDLES
from .side_by_side import Pool, Stopped
from .time_left import Speed, Work, minutes, time_left

SCORES, SUMMARY = "evaluation/test", "summary.json"  # the last of its files
MAPS = "label_maps"  # below a run's folder
TRAINED = "bundle/run.json"  # the last file of a training
FAILED = "job/failed.txt"  # why, until it is tried again
SETTINGS = "job/settings.json"  # what a run was made under
CACHE = "cache"  # of the preprocessed scans, beside the runs
CONFIDENCE = """\
made::notes: [confidence]  # a prediction without one is made anew
confidence: {_target_: scripts.inference.confidence.Confidence, output_dir: '@predictions', network: '@network', made: '@made'}
evaluator::val_handlers: '$[@saving, @confidence] + @handlers'  # written before a scan that is refused ends the run
run::3: $@evaluator.run() if @data else @confidence.finish()
"""
_LATER = ("labels", "images", "config")  # settings that runs of earlier versions did not keep
_TAIL = 12  # lines of a log that an error shows
_MEMORY = 0.6  # of the free memory, for the scans of all trainings that run side by side
_EVERY_S = 60.0  # between two lines of what runs
_LOOK_S = 2.0  # between two looks whether one is due


@dataclass(frozen=True)
class Job:
    """A training, its evaluation where scans judge, and its label maps of a folder of scans.

    Args:
        name: of its folder.
        bundle: which is trained.
        data_list: of the training.
        task: file.
        steps: optimiser steps.
        seed: of everything random.
        maps_of: folder of images to segment at the end; None: none.
        title: as the log calls it.
    """

    name: str
    bundle: str
    data_list: Path
    task: Path
    steps: int
    seed: int
    maps_of: Path | None = None
    title: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def judges(self) -> int:
        """How many scans judge."""
        return len(json.loads(self.data_list.read_text(encoding="utf-8"))["test"])

    @property
    def judged(self) -> bool:
        return self.judges > 0

    def settings(self) -> dict[str, Any]:
        """What a training's result depends on."""
        task, data = (path.read_text(encoding="utf-8") for path in (self.task, self.data_list))
        plain = {k: v for k, v in asdict(self).items() if k not in ("title", "maps_of", "data_list", "task")}
        return {
            **plain,
            "task": task,
            "data": data,
            "labels": labels_digest(data),
            "images": _images(self.data_list, data),
            "config": config_digest(self.bundle),
        }


class JobError(RuntimeError):
    """A command of a job failed; the text has the end of its log."""


class Runner:
    """Runs jobs side by side; what is done already is not done again.

    Args:
        folder: of the runs, one below it a job; beside it lies what they share, the preprocessed scans.
        jobs: how many at a time.
        threads: of the processor, for each, on cores of its own.
        tell: gets a line for the user now and then.
        clock: seconds, from any start.
        speed: of the trainings, as it was measured before them; what they show themselves takes its place.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int,
        threads: int,
        tell: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
        speed: Speed | None = None,
    ) -> None:
        self.speed = speed or Speed()
        self.folder, self.jobs, self.threads, self.tell, self.clock = folder, jobs, threads, tell, clock
        self._pool = Pool(max(1, jobs), threads)

    def run(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Do the jobs, in their order where all cannot run at once.

        Returns:
            Why, for each job that failed; the others are done.

        Raises:
            Stopped: on SIGTERM, SIGHUP or Ctrl-C; the running trainings have ended with what their last epoch left.
        """
        failed: dict[str, str] = {}
        missing = [job for job in jobs if not self.done(job)]
        if len(missing) < len(jobs):
            self.tell(f"{len(jobs) - len(missing)} of {len(jobs)} trainings are done already.")
        finished, well = 0, [job for job in jobs if job not in missing]
        with self._pool as pool:
            futures = {pool.submit(functools.partial(self._do, job)): job for job in missing}
            for future in self._as_completed(futures, well):
                job, error = futures[future], future.exception()
                finished += 1
                if isinstance(error, Stopped):
                    continue
                if error is not None:
                    failed[job.name] = str(error)
                    self.tell(f"FAILED  {job.title or job.name}: {error}")
                    continue
                well.append(job)
                self.tell(f"{finished}/{len(missing)}  {job.title or job.name}{self._left(futures, well)}")
        if pool.stopped:
            raise Stopped
        return failed

    def _as_completed(self, futures: Mapping[Future[None], Job], done: Sequence[Job]) -> Iterator[Future[None]]:
        """The futures as they end; meanwhile a line every minute says which jobs run, how far each is, and how long all
        of them will take; ``done``: the jobs that have ended well."""
        pace, left = Pace(_EVERY_S, self.clock), set(futures)
        while left:
            ended, left = wait(left, _LOOK_S, FIRST_COMPLETED)
            yield from ended
            running = [job for future, job in futures.items() if future in left and future.running()]
            if running and pace.due():
                each = "; ".join(f"{job.title or job.name}: {self.how_far(job)}" for job in running)
                self.tell(f"running  {each}{self._left(futures, done)}")

    def _left(self, futures: Mapping[Future[None], Job], done: Sequence[Job]) -> str:
        """``; about 12 min left of all trainings``; nothing where that is not known, or where all are done."""
        running = [job for future, job in futures.items() if future.running()]
        waiting = [job for future, job in futures.items() if not (future.running() or future.done())]
        seen = self._pace([*done, *running])
        speed = replace(self.speed, step={**self.speed.step, **seen})
        works = [self._work(job, job in running or _same(self.folder / job.name, job)) for job in (*running, *waiting)]
        left = time_left(works[: len(running)], works[len(running) :], speed, len(self._pool.shares))
        if left is None or left < 1:
            return ""
        # the scans are read before the first step of all
        return f"; about {minutes(left + (0.0 if seen else self.speed.reading))} left of all trainings"

    def _pace(self, jobs: Iterable[Job]) -> dict[str, float]:
        """Seconds of a step by bundle, over the whole epochs of trainings."""
        steps: Counter[str] = Counter()
        seconds: dict[str, float] = defaultdict(float)
        for job in jobs:
            table = _table(self.folder / job.name)
            steps[job.bundle] += table.steps
            seconds[job.bundle] += table.seconds
        return {bundle: seconds[bundle] / count for bundle, count in steps.items() if count and seconds[bundle]}

    def _work(self, job: Job, own: bool) -> Work:
        """What is missing of a job; ``own``: what lies in its folder was made under its present settings."""
        folder = self.folder / job.name
        trained = own and (folder / TRAINED).is_file()
        steps = 0 if trained else job.steps - (_steps_done(folder) if own else 0)
        # two networks are scored, one makes label maps
        scored = 0 if trained and _judged(folder, job) else 2 * job.judges
        mapped = len(entries(job.maps_of)) if job.maps_of else 0
        return Work(job.bundle, steps, scored + mapped, begun=steps < job.steps)

    def how_far(self, job: Job) -> str:
        """Progress of a running job: ``step 120 of 400`` by its last whole epoch, then what follows the training."""
        folder = self.folder / job.name
        if (folder / TRAINED).is_file():
            return "segments its scans" if job.maps_of and _judged(folder, job) else "is scored"
        return f"step {_steps_done(folder)} of {job.steps}"

    def stop(self) -> None:
        """Ask every running command to end, and start no other."""
        self._pool.stop()

    def done(self, job: Job) -> bool:
        """Whether the job was finished under its present settings."""
        folder = self.folder / job.name
        return _same(folder, job) and (folder / TRAINED).is_file() and _judged(folder, job) and _mapped(folder, job)

    def failures(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Why, for each job that failed when it was last tried under its present settings, and is not done."""
        found = {}
        for job in jobs:
            path = self.folder / job.name / FAILED
            if path.is_file() and _same(self.folder / job.name, job) and not self.done(job):
                found[job.name] = path.read_text(encoding="utf-8")
        return found

    def _do(self, job: Job, share: Share) -> None:
        folder = self.folder / job.name
        (folder / "job").mkdir(parents=True, exist_ok=True)
        with RunFolder(folder / "job", option="study"):  # two calls may share a study
            (folder / FAILED).unlink(missing_ok=True)
            same = _same(folder, job)
            if not same:  # before the new settings are there: a study that is killed here must not take it for theirs
                marks = (folder / TRAINED, folder / SCORES / SUMMARY, folder / MAPS / confidence.FILE)
                for stale in (*marks, *folder.glob("last_*.pt")):
                    stale.unlink(missing_ok=True)
                write_text(folder / SETTINGS, json.dumps(job.settings(), indent=1) + "\n")
            write_text(folder / "job/commands.json", json.dumps(self._commands(job, folder, same), indent=1) + "\n")
            self._process(job, folder, share)

    def _commands(self, job: Job, folder: Path, same: bool) -> list[dict[str, Any]]:
        """What is missing of a job; ``same``: what is there was made under the same settings."""
        own = {
            "data_list": str(job.data_list),
            "output_dir": str(folder),
            "cache_dir": str(self.folder.with_name(CACHE)),
            "memory_share": round(_MEMORY / max(1, self.jobs), 3),  # all of them look at the same free memory
            "seed": job.seed,
            **lengths(job.steps),
            **job.overrides,
        }
        task, found = str(job.task), []
        if not (same and (folder / TRAINED).is_file()):
            resume = same and any(folder.glob("last_*.pt"))
            found.append(_command("training", ["configs/train.yaml", task], {**own, "resume": resume}))
        if not _judged(folder, job):
            found.append(_command("run", ["configs/train.yaml", task, "configs/evaluate.yaml"], own))
        if not _mapped(folder, job):
            extra = folder / "job/confidence.yaml"
            write_text(extra, CONFIDENCE)
            paths = {
                "dataset_dir": job.maps_of,
                "output_dir": folder / MAPS,
                "model_file": folder / "bundle/models/model.pt",
            }
            known = yaml.safe_load((BUNDLES / job.bundle / "configs/inference.yaml").read_text(encoding="utf-8"))
            alike = {k: v for k, v in job.overrides.items() if k.partition("::")[0] in known}
            settings = {**alike, **{k: str(v) for k, v in paths.items()}}
            found.append(_command("run", ["configs/inference.yaml", task, str(extra)], settings))
        return found

    def _process(self, job: Job, folder: Path, share: Share) -> None:
        """Run the commands of a job.

        Raises:
            Stopped: it was asked to end.
            JobError: one failed.
        """
        command = [sys.executable, "-m", "scripts.study.commands", str(folder / "job/commands.json")]
        log = folder / "log.txt"
        code, _ = self._pool.command(command, share, BUNDLES / job.bundle, log)
        if code:
            # inference refuses some scans, as it says at its end: the others are still worth having
            if self.done(job):
                self.tell(f"note: {job.title or job.name}: {_last_line(log)}")
                return
            tail = "\n  ".join(log.read_text(errors="replace").rstrip().splitlines()[-_TAIL:])
            text = f"it ended with {code}; the end of {log}:\n  {tail}"
            with contextlib.suppress(FileError):  # the disk may be full
                write_text(folder / FAILED, text)
            raise JobError(text)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    return lines[-1].strip() if lines else "it ended with an error"


def _command(run_id: str, files: Sequence[str], overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {"run_id": run_id, "config_file": list(files), "overrides": dict(overrides)}


def lengths(steps: int) -> dict[str, int]:
    """``steps`` and ``epoch_steps`` of a training: about twenty epochs, at whose ends it can be stopped and go on."""
    return {"steps": steps, "epoch_steps": max(1, round(steps / 20))}


def whole_epochs(steps: float) -> int:
    """The largest number of steps up to ``steps`` that makes whole epochs of :func:`lengths`; at least 1."""
    count = max(1, int(steps + 1e-6))  # 0.3 / 0.1 is a little below 3
    return count if count < 20 else count // 20 * 20


def labels_digest(data: str) -> str:
    """SHA-256 over the label files of a data list: a label that was corrected in its place is another one."""
    state = hashlib.sha256()
    for part in json.loads(data).values():
        for entry in part:
            if isinstance(entry, dict) and entry.get("label"):
                state.update(_content(entry["label"], signature(entry["label"])).encode())
    return state.hexdigest()


def _images(data_list: Path, data: str) -> str:
    """SHA-256 over what the image files of a data list hold: one that was replaced in its place is another one."""
    state = hashlib.sha256()
    for part in json.loads(data).values():
        for entry in part:
            if isinstance(entry, dict):
                for file in image_files(entry).values():
                    state.update(_voxels(file, signature(file), record_path(data_list)).encode())
    return state.hexdigest()


@functools.cache
def _voxels(file: str, _signature: str | None, record: Path) -> str:
    facts = _record(record).facts([file])[file]
    return facts.voxels if isinstance(facts, Facts) else str(facts)


@functools.cache
def _record(path: Path) -> Record:
    return Record(path)


@functools.cache
def _content(file: str, _signature: str | None) -> str:
    files = files_of(Path(file)) if os.path.exists(file) else []
    return "".join(hashlib.sha256(each.read_bytes()).hexdigest() for each in files)


def config_digest(bundle: str) -> str:
    """SHA-256 over what a bundle's own ``train.yaml`` says, less what cannot change a result: after an update of the repository
    the bundle may be another one."""
    file = str(BUNDLES / bundle / "configs/train.yaml")
    return _config(file, signature(file))


@functools.cache
def _config(file: str, _signature: str | None) -> str:
    from ..run.config import RunConfig  # brings MONAI, which the report does without

    config = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    for name in RunConfig.FREE:
        *parents, last = name.split("::")
        functools.reduce(lambda part, parent: part.get(parent, {}), parents, config).pop(last, None)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def stale(folder: Path, job: Job) -> bool:
    """Whether what lies in a run's folder was made under other settings, labels or images than the job has now."""
    return (folder / SETTINGS).is_file() and not _same(folder, job)


def _same(folder: Path, job: Job) -> bool:
    path = folder / SETTINGS
    if not path.is_file():
        return False
    before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(job.settings()))
    return before == {k: v for k, v in now.items() if k in before or k not in _LATER}


def _judged(folder: Path, job: Job) -> bool:
    return not job.judged or (folder / SCORES / SUMMARY).is_file()


def _mapped(folder: Path, job: Job) -> bool:
    return job.maps_of is None or (folder / MAPS / confidence.FILE).is_file()  # written when all are segmented


def _steps_done(folder: Path) -> int:
    """Steps done of a training that can go on."""
    return _table(folder).steps


@dataclass(frozen=True)
class _Table:
    """Steps and seconds of a training's whole epochs."""

    steps: int = 0
    seconds: float = 0.0


def _table(folder: Path) -> _Table:
    """What a training's table says; without a checkpoint and a result it is, if any, of an earlier training."""
    if not ((folder / TRAINED).is_file() or any(folder.glob("last_*.pt"))):
        return _Table()
    try:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:  # the training moves what an earlier one left
        return _Table()
    steps = max((int(float(row["step"])) for row in rows), default=0)
    return _Table(steps, sum(float(row.get("seconds") or 0) for row in rows))
