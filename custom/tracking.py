"""A run in MLflow: an account that is kept beside the run and can never stop it."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from . import distributed
from .output import Output
from .run_config import RunConfig

logger = logging.getLogger(__name__)


class MLflow:
    """Sends the settings to MLflow, each epoch's row of ``metrics.csv`` in one batch, and at the end the file itself.

    A row is sent when the next epoch starts, after the trainer has written it. What cannot be sent is kept and tried
    again at the next epoch; ``metrics.csv`` is complete whatever happens.

    Args:
        uri: ``sqlite:////absolute/path.db`` or ``http://host:port``.
        config: the run's config: the experiment is named after its bundle, the settings become parameters.
        output: the run's folder.
    """

    def __init__(self, uri: str, config: RunConfig, output: Output) -> None:
        self.uri, self.config, self.output = uri, config, output
        self._client: Any = None
        self._run = ""
        self._sent = 0
        self._times: list[int] = []  # of the rows, ms: a row that is sent twice is the same row to MLflow
        self._warned = False

    def attach(self, engine: Engine) -> None:
        if distributed.rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, lambda: self._guarded(self._send))
            engine.add_event_handler(Events.COMPLETED, lambda: self._guarded(self._close))

    def _guarded(self, act: Callable[[], None]) -> None:
        # a server that is down must cost seconds, not the minutes that MLflow retries by default
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a hospital's machine tells nobody what it does
        try:
            act()
            self._warned = False
        except Exception as error:  # whatever it is, tracking does not stop a training
            if not self._warned:
                logger.warning("MLflow at %s does not answer (%s); metrics go to metrics.csv, tried again each epoch.",
                               self.uri, (str(error).splitlines() or [type(error).__name__])[0][:200])  # fmt: skip
            self._warned = True

    def _open(self) -> None:
        """Make the run and log its settings; what fails half-way goes on with the same run at the next call."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.uri)
        if not self._run:
            name = self.config.bundle_root.name
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else client.create_experiment(name, _artifacts_beside(self.uri))
            unique = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            self._run = client.create_run(experiment, run_name=unique).info.run_id
        settings = [Param(_accepted(key), str(value)[:500]) for key, value in self.config.settings().items()]
        client.log_batch(self._run, params=[param for param in settings if param.value])
        self._client = client

    def _send(self) -> None:
        if self._client is None:
            self._open()
        from mlflow.entities import Metric

        rows = self.output.rows
        self._times += [int(time.time() * 1000)] * (len(rows) - len(self._times))
        for row, when in list(zip(rows, self._times, strict=False))[self._sent :]:
            metrics = [Metric(_accepted(key), float(value), when, int(row["step"])) for key, value in row.items()]
            self._client.log_batch(self._run, metrics=metrics)
            self._sent += 1

    def _close(self) -> None:
        self._send()
        for path in (Path(self.output.folder) / "metrics.csv", self.output.folder / "bundle/configs/train.yaml"):
            if path.exists():
                self._client.log_artifact(self._run, str(path))
        self._client.set_terminated(self._run)


def _accepted(name: str) -> str:
    """A name of a metric or setting in the letters that MLflow takes: ``core (T1)`` is ``core__T1_``."""
    return re.sub(r"[^\w./:-]", "_", name)


def _artifacts_beside(uri: str) -> str | None:
    """Beside the database, not in the working directory, which is MLflow's choice; a server has its own place."""
    database = re.fullmatch(r"sqlite:///(.+)", uri)
    return (Path(database.group(1)).resolve().parent / "mlruns").as_uri() if database else None
