"""A run in MLflow: an account that is kept beside the run and can never stop it."""

from __future__ import annotations

import logging
import os
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
    """Sends each epoch's row of ``metrics.csv`` to MLflow in one batch, and the settings and curves at the ends.

    What cannot be sent is kept and tried again at the next epoch; ``metrics.csv`` is complete whatever happens. Attach
    it behind the validation handler; the row is read after the trainer has written it, one epoch late at most.

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
        self._warned = False

    def attach(self, engine: Engine) -> None:
        if distributed.rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, lambda: self._guarded(self._send))
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._guarded(self._send))
            engine.add_event_handler(Events.COMPLETED, lambda: self._guarded(self._close))

    def _guarded(self, act: Callable[[], None]) -> None:
        # a server that is down must cost seconds, not the minutes that MLflow retries by default
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        try:
            act()
            self._warned = False
        except Exception as error:  # whatever it is, tracking does not stop a training
            if not self._warned:
                logger.warning("MLflow at %s does not answer (%s); metrics go to metrics.csv, tried again each epoch.",
                               self.uri, str(error).splitlines()[0][:200])  # fmt: skip
            self._warned = True

    def _open(self) -> None:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.uri)
        name = self.config.bundle_root.name
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        unique = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        run = client.create_run(experiment, run_name=unique)
        for line in self.config.summary():
            for setting in line.split("  "):
                key, _, value = setting.strip().partition("=")
                if value:
                    client.log_param(run.info.run_id, key, value[:500])
        self._client, self._run = client, run.info.run_id

    def _send(self) -> None:
        if self._client is None:
            self._open()
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for row in self.output.rows[self._sent :]:
            metrics = [Metric(k.replace(" ", "_"), float(v), now, int(row["step"])) for k, v in row.items()]
            self._client.log_batch(self._run, metrics=metrics)
            self._sent += 1

    def _close(self) -> None:
        self._send()
        for path in (Path(self.output.folder) / "metrics.csv", self.output.folder / "bundle/configs/train.yaml"):
            if path.exists():
                self._client.log_artifact(self._run, str(path))
        self._client.set_terminated(self._run)
