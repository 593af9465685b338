"""Runs that MLflow follows: what its tests stand on."""

from __future__ import annotations

import csv
import logging
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from ignite.engine import Events
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigParser

from custom.report.pictures import Pictures
from custom.run.config import RunConfig
from custom.run.mlflow import MLflow
from custom.run.output import Output
from custom.training.trainer import DualStreamTrainer

SETTINGS = {"bundle_root": "runs/my bundle", "learning_rate": 0.05, "widths": [4, 8], "mlflow_uri": "", "steps": 9,
            "data_list": "phantom:2d", "seed": 3, "weights": {"supervised": 1.0}, "_meta_": {"version": "0.1.0"},
            "train": {"method": {"_target_": "scripts.methods.Supervised"}}}  # fmt: skip
PARAMS = {"bundle_root", "learning_rate", "widths", "steps", "data_list", "seed", "weights"}


def tracker(uri: str, folder: Path) -> MLflow:
    return MLflow(uri, RunConfig(ConfigParser(SETTINGS)), Output(folder))


def tracked_trainer(
    uri: str, folder: Path, which: str = "supervised", pictures: bool = False, **settings: Any
) -> DualStreamTrainer:
    """A tiny trainer with the trackers on it, as a config assembles them: all hold one ``Output``."""
    trainer = tiny.trainer(which, folder, **settings)
    assert trainer.output is not None
    if pictures:
        Pictures(trainer.output, trainer.validator).attach(trainer)
    MLflow(uri, RunConfig(ConfigParser(SETTINGS)), trainer.output).attach(trainer)
    return trainer


def train(uri: str, folder: Path, **settings: Any) -> MLflow:
    trainer = tracked_trainer(uri, folder, **settings)
    trainer.run()
    mlflow = trainer.output.trackers[-1]  # type: ignore[union-attr]
    assert isinstance(mlflow, MLflow)
    return mlflow


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def failing_trainer(uri: str, folder: Path, error: BaseException, **settings: Any) -> DualStreamTrainer:
    """Raises in its second epoch."""
    trainer = tracked_trainer(uri, folder, epochs=3, epoch_steps=2, **settings)

    def fail() -> None:
        if trainer.state.epoch == 2:
            raise error

    trainer.add_event_handler(Events.ITERATION_COMPLETED, fail)
    return trainer


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def runs_of(client: MlflowClient, bundle: str = "my bundle") -> list[Any]:
    """First to last."""
    experiment = client.get_experiment_by_name(bundle)
    assert experiment is not None, "the experiment is named after the bundle"
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def files_of(client: MlflowClient, run: Any, folder: str | None = None) -> set[str]:
    found = client.list_artifacts(run.info.run_id, folder)
    return {f.path for f in found if not f.is_dir}.union(*(files_of(client, run, f.path) for f in found if f.is_dir))


class Server:
    """Stands for MlflowClient: keeps what it is sent, and fails at the calls in ``down``."""

    def __init__(self) -> None:
        self.down: dict[int, BaseException] = {}  # call number -> error
        self.lost: set[int] = set()  # numbers of calls that arrive, their answers not
        self.calls = 0
        self.heard: list[str] = []  # what each call was
        self.runs: list[str] = []
        self.params: Counter[str] = Counter()
        self.metrics: list[tuple[str, float, int]] = []
        self.artifacts: list[str] = []
        self.status = ""

    def _called(self, what: str) -> None:
        self.calls += 1
        self.heard.append(what)
        if self.calls in self.down:
            raise self.down[self.calls]

    def _answer(self) -> None:
        if self.calls in self.lost:
            raise ConnectionError("the answer got lost")

    def get_experiment_by_name(self, name: str) -> None:
        self._called("experiment?")

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        self._called("experiment")
        assert artifact_location is None, "a server has its own place"
        return "1"

    def search_runs(self, experiments: list[str], query: str) -> list[Any]:
        self._called("run?")
        return [self._run_of(f"id{n}") for n, name in enumerate(self.runs, start=1) if query.endswith(f"'{name}'")]

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> Any:
        self._called("run")
        self.runs.append(run_name)
        self.status = "RUNNING"
        self._answer()
        return self._run_of(f"id{len(self.runs)}")

    def get_run(self, run: str) -> Any:
        self._called("run's state?")
        return self._run_of(run)

    def update_run(self, run: str, status: str) -> None:
        self._called("status")
        self.status = status

    def _run_of(self, run: str) -> Any:
        steps = [value for name, value, _ in self.metrics if name == "step"]
        info = SimpleNamespace(run_id=run, status=self.status, lifecycle_stage="active")
        data = SimpleNamespace(params=dict(self.params), metrics={"step": steps[-1]} if steps else {})
        return SimpleNamespace(info=info, data=data)

    def log_batch(self, run: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        self._called("settings" if params else "row")
        assert run == "id1"
        self.params.update(param.key for param in params)
        self.metrics += [(m.key, m.value, m.step) for m in metrics if not math.isnan(m.value)]
        self._answer()

    def log_text(self, run: str, text: str, name: str) -> None:
        self._called("file")
        self.artifacts.append(name)

    def log_artifact(self, run: str, path: str, folder: str | None) -> None:
        self._called("file")
        self.artifacts.append(f"{folder}/{Path(path).name}" if folder else Path(path).name)

    def set_terminated(self, run: str, status: str) -> None:
        self._called("end")
        self.status = status
