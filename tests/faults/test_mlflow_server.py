"""A real MLflow server that is killed in the middle of a training: the training goes on, and nothing is lost."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import ROOT
from ignite.engine import Events
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigParser
from ports import free_port

from custom.run.config import RunConfig
from custom.run.mlflow import MLflow
from custom.training.trainer import DualStreamTrainer

UP_s = 180  # a bound, not an expectation: it takes some ten seconds


class MlflowServer:
    """``mlflow server`` on a port of its own, its database and files in ``folder``; as often as it is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                   "--artifacts-destination", str(self.folder / "files")]  # fmt: skip
        quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=quiet, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + UP_s
        while not self._answers():
            assert time.monotonic() < end, "the server does not come up"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
                pytest.fail((self.folder / "log").read_text()[-2000:])

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL, for it and for its workers."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


@pytest.fixture
def server(tmp_path: Path) -> Any:
    found = MlflowServer(tmp_path / "server")
    yield found
    found.kill()


def trainer(uri: str, folder: Path, **settings: Any) -> DualStreamTrainer:
    made = tiny.trainer("mean_teacher", folder, **settings)
    assert made.output is not None
    config = RunConfig(ConfigParser({"bundle_root": "bundles/x", "learning_rate": 0.05}))
    MLflow(uri, config, made.output).attach(made)
    return made


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_arrived(uri: str, folder: Path) -> None:
    """Every number of metrics.csv once, the whole bundle, one finished run."""
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("x").experiment_id])  # type: ignore[union-attr]
    assert run.info.status == "FINISHED"
    for name in (expected := rows(folder))[0]:
        history = sorted(client.get_metric_history(run.info.run_id, name), key=lambda m: m.step)
        sent = [(int(row["step"]), repr(float(row[name]))) for row in expected if row[name]]
        assert [(m.step, repr(m.value)) for m in history] == sent, name
    assert {"metrics.csv", "config.yaml"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
    models = {f.path for f in client.list_artifacts(run.info.run_id, "bundle/models")}
    assert models == {f"bundle/models/{path.name}" for path in (folder / "bundle/models").iterdir()}


@pytest.mark.slow
@pytest.mark.fault("13", "real server killed by SIGKILL and started again")
def test_a_server_killed_in_the_middle_and_started_again_has_every_row_once_and_the_files(tmp_path, server, caplog):
    server.start()
    run = trainer(server.uri, tmp_path / "run", epochs=6)
    run.add_event_handler(Events.EPOCH_STARTED(once=3), server.kill)
    run.add_event_handler(Events.EPOCH_STARTED(once=6), server.start)
    run.run()
    (message,) = [r.getMessage() for r in caplog.records if r.name == "custom.run.mlflow"]
    assert message.startswith(f"MLflow at {server.uri} does not answer (")
    assert len(rows(tmp_path / "run")) == 6
    check_arrived(server.uri, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.fault("13", "real server killed for good")
def test_a_server_that_never_comes_back_costs_nothing_and_a_resume_sends_the_rest(tmp_path, server):
    server.start()
    run = trainer(server.uri, tmp_path / "run", epochs=4)
    run.add_event_handler(Events.EPOCH_STARTED(once=3), server.kill)
    run.run()
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1", "2", "3", "4"]
    assert (tmp_path / "run/bundle/models/model_final.pt").exists()
    server.start()
    trainer(server.uri, tmp_path / "run", epochs=4, resume=True).run()
    check_arrived(server.uri, tmp_path / "run")


CHILD = """
import os, pathlib, sys
sys.path[:0] = {folders!r}
import test_mlflow_server
from ignite.engine import Events
run = test_mlflow_server.trainer({uri!r}, pathlib.Path({folder!r}), epochs=4)
run.add_event_handler(Events.EPOCH_STARTED(once=3), lambda: os.kill(os.getpid(), 9))
run.run()
"""


@pytest.mark.slow
@pytest.mark.fault("13", "the training killed")
def test_a_killed_run_goes_on_in_its_own_run_of_the_server(tmp_path, server):
    """The training is killed: nobody can say so, the run stays RUNNING until it is resumed."""
    server.start()
    folders = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/faults")]
    code = CHILD.format(folders=folders, uri=server.uri, folder=str(tmp_path / "run"))
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == -signal.SIGKILL
    client = MlflowClient(server.uri)
    (killed,) = client.search_runs([client.get_experiment_by_name("x").experiment_id])  # type: ignore[union-attr]
    assert (killed.info.status, killed.data.metrics["epoch"]) == ("RUNNING", 2)
    trainer(server.uri, tmp_path / "run", epochs=4, resume=True).run()
    check_arrived(server.uri, tmp_path / "run")


@pytest.mark.fault("13", "accepts and never answers")
def test_a_server_that_accepts_and_never_answers_costs_its_timeout_a_few_times(tmp_path, monkeypatch):
    """Asked when the run begins, and once more when there is no other time, however many epochs there are."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(50)
        trainer(f"http://127.0.0.1:{deaf.getsockname()[1]}", tmp_path, epochs=5).run()
        deaf.settimeout(0.5)
        asked = 0
        try:
            while True:
                deaf.accept()[0].close()
                asked += 1
        except TimeoutError:
            pass
    assert len(rows(tmp_path)) == 5
    assert asked == 2
