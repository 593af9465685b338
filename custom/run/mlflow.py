"""A run in MLflow: an account that is kept beside the run and can never stop it."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from ignite.engine import Engine

from .. import distributed
from ..cohort.names import first_file, stem
from ..errors import UserError
from ..files import write_text
from .config import RunConfig
from .output import Output
from .tracker import Rows

logger = logging.getLogger(__name__)


class TrackingError(UserError, ValueError):
    """An address that MLflow cannot keep a run at."""


class MLflow:
    """Keeps a run in MLflow: settings, tags, each epoch's row of ``metrics.csv`` in one batch, at the end the files.

    A row is sent once its epoch is in a checkpoint. What cannot be sent is kept and tried again at the next epoch;
    ``metrics.csv`` is complete whatever happens. ``mlflow.json`` in the run's folder names the run: one that is resumed
    goes on in it, after the last row that MLflow has, and sends what an outage kept back, even after the last epoch.
    A run that ends by an error is FAILED; one that is killed stays RUNNING.

    Args:
        uri: ``sqlite:////absolute/path.db`` or ``http://host:port``.
        config: the run's config: the settings become parameters.
        output: the run's folder.
        experiment: its name; None: the bundle's.
        run_name: None: one that no other run has.

    Raises:
        TrackingError: a path, or a ``file:`` address, which MLflow no longer takes.
    """

    def __init__(
        self, uri: str, config: RunConfig, output: Output, experiment: str | None = None, run_name: str | None = None
    ) -> None:
        if "://" not in uri or uri.startswith("file:"):
            raise TrackingError(
                f"mlflow_uri {uri!r} is not an address: expected sqlite:////absolute/path.db, or a server http://host:port"
            )
        self.uri, self.config, self.output = uri, config, output
        self.experiment, self.run_name = experiment or config.bundle_root.name, run_name
        self._unique = f"{config.bundle_root.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        self._server = _Server(uri)
        self._client: Any = None
        self._run = ""
        self._rows: Rows = ()
        self._times: list[int] = []  # of the rows, ms: a row that arrives twice is the same row to MLflow
        self._last = -1.0  # step of the last row that MLflow has
        self._cohort: dict[str, Any] = {}
        self._under_way = False

    def attach(self, engine: Engine) -> None:
        if distributed.rank() == 0:
            self._cohort = _cohort(engine)
            self.output.trackers.append(self)

    # what the run's Output says

    def begin(self, rows: Rows) -> None:
        self._under_way, self._rows = True, rows
        self._server.ask(self._send)

    def update(self, rows: Rows) -> None:
        self._rows = rows
        self._server.ask(self._send)

    def finish(self, rows: Rows) -> None:
        self._under_way, self._rows = False, rows
        folder, bundle = self.output.folder, self.output.folder / "bundle"
        files = dict.fromkeys((folder / "metrics.csv", *sorted(folder.glob("*.png"))), "")
        files |= {path: path.parent.relative_to(bundle.parent).as_posix() for path in sorted(bundle.rglob("*"))}
        self._end("FINISHED", files)

    def close(self) -> None:
        if self._under_way:
            self._under_way = False
            self._end("FAILED", {self.output.folder / "metrics.csv": ""})

    # what MLflow hears

    def _end(self, status: str, files: Mapping[Path, str]) -> None:
        def act() -> None:
            self._send()
            self._upload(self._client, files)
            self._client.set_terminated(self._run, status)

        if not self._server.ask(act, last=True):
            logger.info("MLflow at %s lacks the rest of this run: once it answers, the same command with --resume true "
                        "sends it.", self.uri)  # fmt: skip

    def _send(self) -> None:
        """The rows that MLflow lacks. After an error it is asked what it has: an answer may have got lost."""
        from mlflow.entities import Metric

        self._times += [int(time.time() * 1000)] * (len(self._rows) - len(self._times))
        client, self._client = self._client or self._open(), None
        for row, when in zip(self._rows, self._times, strict=False):
            if row["step"] > self._last:
                metrics = [Metric(_accepted(key), float(value), when, int(row["step"])) for key, value in row.items()]
                client.log_batch(self._run, metrics=metrics)
                self._last = row["step"]
        self._client = client

    def _open(self) -> Any:
        """Find or make the run, log its settings where they are not there yet, and ask for the last row that is."""
        from mlflow.entities import Param, RunTag
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.uri)
        self._run = self._run or self._recorded(client) or self._new(client)
        run = client.get_run(self._run)
        if run.info.status != "RUNNING":
            client.update_run(self._run, status="RUNNING")
        if not run.data.params:
            settings = [Param(_accepted(key), str(value)[:500]) for key, value in self.config.settings().items()]
            tags = [RunTag(key, str(value)) for key, value in self._tags().items()]
            client.log_batch(self._run, params=[param for param in settings if param.value], tags=tags)
            self._upload(client, {})
        self._last = run.data.metrics.get("step", -1.0)
        return client

    def _recorded(self, client: Any) -> str:
        """The run that this folder's run has at this address; empty where there is none, or no longer one."""
        from mlflow.exceptions import MlflowException

        record = self.output.folder / "mlflow.json"
        known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        if known.get("uri") != self.uri:
            return ""
        try:
            run = client.get_run(known["run_id"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        return run.info.run_id if run.info.lifecycle_stage == "active" else ""

    def _new(self, client: Any) -> str:
        found = client.get_experiment_by_name(self.experiment)
        place = found.experiment_id if found else client.create_experiment(self.experiment, _artifacts_beside(self.uri))
        made = client.search_runs([place], f"tags.folder = '{self._unique}'")  # and its answer got lost
        name = self.run_name or self._unique
        run = (made[0] if made else client.create_run(place, run_name=name, tags={"folder": self._unique})).info.run_id
        write_text(self.output.folder / "mlflow.json", json.dumps({"uri": self.uri, "run_id": run}) + "\n")
        return run

    def _tags(self) -> dict[str, Any]:
        method = (self.config.config.get("train") or {}).get("method") or {}
        files = [Path(file) for file in self.config.files]
        task = next((file.stem for file in files if file.parent.name == "tasks"), "")
        tags = {
            "method": str(method.get("_target_", "")).rpartition(".")[2],
            "task": task or _task(str(self.config.resolved("data_list", ""))),
            **self._cohort,
            "seed": self.config.resolved("seed", ""),
            "version": self.config.metadata.get("version", ""),
        }
        return {key: value for key, value in tags.items() if value != ""}

    def _upload(self, client: Any, files: Mapping[Path, str]) -> None:
        """The config and these files, into these folders. A server whose store of files is broken keeps the metrics."""
        config = yaml.safe_dump(self.config.filled(), sort_keys=False, allow_unicode=True)
        try:
            client.log_text(self._run, config, "config.yaml")
            for path, folder in files.items():
                if path.is_file() and "__pycache__" not in path.parts:
                    client.log_artifact(self._run, str(path), folder or None)
        except Exception as error:  # the first that fails ends it: each could cost a timeout
            logger.warning("MLflow at %s takes no files (%s); they are in %s.", self.uri, _first_line(error),
                           self.output.folder)  # fmt: skip


def ours_for_monais(handlers: Sequence[Any], output: Output | None) -> list[Any]:
    """Put :class:`MLflow` in the place of MONAI's ``MLFlowHandler``, which ``--tracking mlflow`` adds to a trainer's handlers.

    MONAI's dies with its server, and the training with it. Ours takes its address, experiment and run name. It sends a
    row an epoch, not the loss of each iteration. Where ``mlflow_uri`` is set too, the run is kept there alone.
    """
    ours = without_monais(handlers)
    config = output.config if output is not None else None
    for monais in (handler for handler in handlers if handler not in ours):
        uri = monais.client.tracking_uri
        if any(isinstance(handler, MLflow) for handler in ours):
            logger.info("mlflow_uri is set: the run is kept there, not at %s, which --tracking names.", uri)
        elif output is not None and config is not None:
            ours.append(MLflow(uri, config, output, monais.experiment_name, monais.run_name))
    return ours


def without_monais(handlers: Sequence[Any]) -> list[Any]:
    """Drop MONAI's ``MLFlowHandler``: a validator's scores are in the rows of its trainer."""
    from monai.handlers import MLFlowHandler

    return [handler for handler in handlers if not isinstance(handler, MLFlowHandler)]


class _Server:
    """A server that may not answer: each outage is reported once, and costs seconds, however long it lasts.

    One that refuses is asked each time. One that hangs costs MLflow's timeout: it is left alone for six times as long,
    and twice as long after each further time.
    """

    HANGS_s = 1.0

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._said = False
        self._rest_s, self._until = 0.0, 0.0

    def ask(self, act: Callable[[], None], last: bool = False) -> bool:
        """Whether it worked.

        Args:
            last: there will be no other time: ask even one that hung just now.
        """
        # a server that is down must cost seconds, not the minutes that MLflow retries by default
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a hospital's machine tells nobody what it does
        if time.monotonic() < self._until and not last:
            return False
        started = time.monotonic()
        try:
            import mlflow.tracking  # noqa: F401  (takes seconds, which is not hanging)

            started = time.monotonic()
            act()
        except Exception as error:  # whatever it is, tracking does not stop a training
            taken = time.monotonic() - started
            self._rest_s = max(2 * self._rest_s, 6 * taken) if taken > self.HANGS_s else 0.0
            self._until = time.monotonic() + self._rest_s
            if not self._said:
                logger.warning("MLflow at %s does not answer (%s); metrics go to metrics.csv, retried each epoch.",
                               self.uri, _first_line(error))  # fmt: skip
            self._said = True
            return False
        self._said, self._rest_s = False, 0.0
        return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _accepted(name: str) -> str:
    """A name of a metric or setting in the letters that MLflow takes: ``core (T1)`` is ``core__T1_``."""
    return re.sub(r"[^\w./:-]", "_", name)


def _artifacts_beside(uri: str) -> str | None:
    """Return a place for files beside the database, not MLflow's choice, the working directory; a server has its own."""
    database = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", uri)
    return (Path(unquote(database.group(1))).resolve().parent / "mlruns").as_uri() if database else None


def _task(data_list: str) -> str:
    """``phantom:2d``, or a list's folder and name: ``acdc/list``."""
    if data_list.startswith("phantom:") or not data_list:
        return data_list
    path = Path(data_list)
    return f"{path.parent.name}/{path.stem}" if path.parent.name else path.stem


def _cohort(engine: Any) -> dict[str, int]:
    """Count the scans that a trainer learns from, and their patients."""
    found = {}
    for part in ("labelled", "unlabelled"):
        if hasattr(engine, part):
            stream = getattr(engine, part)
            entries = [] if stream is None else stream.bank.data
            found[f"{part}_scans"] = len(entries)
            found[f"{part}_patients"] = len({e.get("patient") or stem(first_file(e)) for e in entries})
    return found
