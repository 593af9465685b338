"""The promises of custom/tracking.py: an account in MLflow that cannot stop a training."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
import socket
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.tracking
import pytest
import tiny
import yaml
from conftest import ROOT, TINY
from ignite.engine import Engine, Events
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigParser
from monai.handlers import MLFlowHandler, StatsHandler, ValidationHandler, from_engine
from monai.utils import path_to_sqlite_uri

from custom.run.config import RunConfig
from custom.run.mlflow import MLflow, TrackingError, _artifacts_beside, _Server, _task, harmless
from custom.run.output import Output
from custom.training.trainer import DualStreamTrainer

SETTINGS = {"bundle_root": "runs/my bundle", "learning_rate": 0.05, "widths": [4, 8], "mlflow_uri": "", "steps": 9,
            "data_list": "phantom:2d", "seed": 3, "weights": {"supervised": 1.0}, "_meta_": {"version": "0.1.0"},
            "train": {"method": {"_target_": "scripts.methods.Supervised"}}}  # fmt: skip
PARAMS = {"bundle_root", "learning_rate", "widths", "steps", "data_list", "seed", "weights"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the handler sets for its process ends with the test, and nothing is reported to MLflow's makers."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "x")  # so that monkeypatch removes it at the end
        monkeypatch.delenv(name)


def handler(uri: str, folder: Path) -> MLflow:
    return MLflow(uri, RunConfig(ConfigParser(SETTINGS)), Output(folder))


def tracked_trainer(uri: str, folder: Path, which: str = "supervised", **settings: Any) -> DualStreamTrainer:
    """A tiny trainer with the handler on it, as a config assembles them: both hold one ``Output``."""
    trainer = tiny.trainer(which, folder, **settings)
    assert trainer.output is not None
    MLflow(uri, RunConfig(ConfigParser(SETTINGS)), trainer.output).attach(trainer)
    return trainer


def train(uri: str, folder: Path, **settings: Any) -> MLflow:
    trainer = tracked_trainer(uri, folder, **settings)
    trainer.run()
    tracker = trainer.output.trackers[-1]  # type: ignore[union-attr]
    assert isinstance(tracker, MLflow)
    return tracker


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


# a database of one's own


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs, to be copied: MLflow takes seconds to make one."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(empty: Path, tmp_path: Path) -> str:
    shutil.copy(empty, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="module")
def tracked(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MlflowClient]:
    """Four runs that were tracked into one database, started in another folder: two whole ones, one that fails and one
    that fails and is resumed."""
    folder = tmp_path_factory.mktemp("a place")
    uri = f"sqlite:///{shutil.copy(empty, folder)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        (folder / "elsewhere").mkdir()
        patch.chdir(folder / "elsewhere")
        train(uri, folder / "one", which="mean_teacher", epochs=3)
        train(uri, folder / "two", epochs=1)
        for name in ("fails", "resumed"):
            with pytest.raises(ZeroDivisionError):
                failing_trainer(uri, folder / name, ZeroDivisionError()).run()
        train(uri, folder / "resumed", epochs=3, epoch_steps=2, resume=True)
    return folder, MlflowClient(uri)


def runs_of(client: MlflowClient, bundle: str = "my bundle") -> list[Any]:
    """First to last."""
    experiment = client.get_experiment_by_name(bundle)
    assert experiment is not None, "the experiment is named after the bundle"
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def files_of(client: MlflowClient, run: Any, folder: str | None = None) -> set[str]:
    found = client.list_artifacts(run.info.run_id, folder)
    return {f.path for f in found if not f.is_dir}.union(*(files_of(client, run, f.path) for f in found if f.is_dir))


@pytest.mark.parametrize(("number", "name"), [(0, "one"), (3, "resumed")])
def test_every_epoch_of_metrics_csv_arrives_once_the_last_too(tracked, number, name):
    folder, client = tracked
    run, expected = runs_of(client)[number], rows(folder / name)
    assert len(expected) == 3
    for column in expected[0]:
        history = sorted(client.get_metric_history(run.info.run_id, column.replace(" ", "_")), key=lambda m: m.step)
        told = [(int(row["step"]), repr(float(row[column]))) for row in expected if row[column]]
        assert [(m.step, repr(m.value)) for m in history] == told, column  # nan is nan
    assert any(column.startswith("val/") for column in run.data.metrics)


def test_the_settings_are_parameters_and_components_are_not(tracked):
    assert runs_of(tracked[1])[0].data.params == {
        "bundle_root": "runs/my bundle", "learning_rate": "0.05", "widths": "[4, 8]", "steps": "9", "seed": "3",
        "data_list": "phantom:2d", "weights": "{'supervised': 1.0}"}  # fmt: skip


def test_tags_say_method_task_seed_version_and_how_many_scans_it_learns_from(tracked):
    """The tiny cohort: three labelled and three unlabelled scans, each of a patient of its own."""
    mean_teacher, supervised = (dict(run.data.tags) for run in runs_of(tracked[1])[:2])
    assert {k: v for k, v in mean_teacher.items() if not k.startswith("mlflow.")} == {
        "method": "Supervised", "task": "phantom:2d", "seed": "3", "version": "0.1.0", "labelled_scans": "3",
        "labelled_patients": "3", "unlabelled_scans": "3", "unlabelled_patients": "3"}  # fmt: skip
    assert supervised["unlabelled_scans"] == "0", "a method that reads none learns from none"


def test_each_run_has_a_name_of_its_own_and_one_that_raises_is_failed(tracked):
    runs = runs_of(tracked[1])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"], "resumed is one run"
    assert all(run.info.run_name.startswith("my bundle-20") for run in runs)
    assert len({run.info.run_name for run in runs}) == 4, "even of one second and one process"


def test_the_files_of_a_run_are_kept_beside_the_database_not_in_the_working_directory(tracked):
    folder, client = tracked
    run = runs_of(client)[0]
    bundle = {str(path.relative_to(folder / "one")) for path in (folder / "one/bundle").rglob("*") if path.is_file()}
    assert {"bundle/models/model.pt", "bundle/models/model_final.pt", "bundle/run.json"} <= bundle
    assert files_of(client, run) == {"config.yaml", "metrics.csv", "learning_curves.png", "validation.png"} | bundle
    found = {path.name: path for path in (folder / "mlruns").rglob("*.*") if run.info.run_id in str(path)}
    assert found["metrics.csv"].read_bytes() == (folder / "one/metrics.csv").read_bytes()
    assert yaml.safe_load(found["config.yaml"].read_text())["learning_rate"] == 0.05
    assert list((folder / "elsewhere").iterdir()) == []


def test_a_failed_run_has_its_config_and_what_it_measured(tracked):
    client = tracked[1]
    assert files_of(client, runs_of(client)[2]) == {"config.yaml", "metrics.csv"}
    assert runs_of(client)[2].data.metrics["epoch"] == 1


def test_the_run_of_a_folder_is_recorded_and_moves_aside_with_it(tracked):
    folder, client = tracked
    uri, one = f"sqlite:///{folder}/mlflow.db", runs_of(client)[0].info.run_id
    assert json.loads((folder / "one/mlflow.json").read_text()) == {"uri": uri, "run_id": one}
    train(uri, folder / "one", epochs=1)
    assert json.loads((folder / "one/earlier/001/mlflow.json").read_text())["run_id"] == one
    again = json.loads((folder / "one/mlflow.json").read_text())["run_id"]
    assert client.get_run(again).data.metrics["epoch"] == 1
    assert client.get_run(one).data.metrics["epoch"] == 3, "the earlier run is as it was"
    client.delete_run(again)
    train(uri, folder / "one", epochs=1, resume=True)
    third = json.loads((folder / "one/mlflow.json").read_text())["run_id"]
    assert third != again, "somebody deleted it: a new one"
    assert client.get_run(third).data.metrics["epoch"] == 1
    client.delete_run(third)


@pytest.mark.parametrize("written", ["a b/mlflow.db", "a%20b/mlflow.db", "a b/mlflow.db?timeout=3"])
def test_a_space_in_the_path_does_not_part_the_database_from_its_files(written):
    assert _artifacts_beside(f"sqlite:////runs/{written}") == "file:///runs/a%20b/mlruns"
    assert _artifacts_beside("http://host:5000") is None, "a server has its own place"


@pytest.mark.parametrize("uri", ["/runs/mlflow.db", "mlruns", "file:///runs/mlruns"])
def test_what_is_no_address_is_refused_before_training(tmp_path, uri):
    with pytest.raises(TrackingError, match=r"is no address: expected sqlite:////absolute/path\.db, or a server http"):
        handler(uri, tmp_path)


@pytest.mark.parametrize(
    ("data_list", "task"),
    [("phantom:3d", "phantom:3d"), ("/data/acdc/list.json", "acdc/list"), ("l.json", "l"), ("", "")],
)
def test_a_list_is_named_with_its_folder(data_list, task):
    assert _task(data_list) == task


# a server that is not there


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.fault("13", "port closed")
def test_a_server_that_is_not_there_costs_one_warning_and_no_epoch(tmp_path, caplog, closed_port):
    with caplog.at_level(logging.INFO):
        train(closed_port, tmp_path, epochs=4)
    (message,) = warnings(caplog)
    assert message.startswith(f"MLflow at {closed_port} does not answer (")
    assert message.endswith("); metrics go to metrics.csv, retried each epoch.")
    assert (
        f"MLflow at {closed_port} lacks the rest of this run: once it answers, the same command with --resume true "
        "sends it." in caplog.messages
    )
    assert [int(row["epoch"]) for row in rows(tmp_path)] == [1, 2, 3, 4]
    assert (tmp_path / "bundle/models/model_final.pt").exists()
    assert not (tmp_path / "mlflow.json").exists()


def test_mlflow_asks_once_and_briefly_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    """MLflow reads these at every request; by default it would go on asking for minutes."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "33")
    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() > 1
    assert handler("http://127.0.0.1:9", tmp_path)._server.ask(lambda: None)
    assert (MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get()) == (0, 33)


def test_a_server_that_hangs_is_left_alone_for_longer_each_time(monkeypatch):
    """It takes 10 s to give up: asked again after 6 x 10 s, then after twice that; what is the last is asked anyway."""
    clock, asked = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def hang() -> None:
        asked.append(clock[0])
        clock[0] += 10
        raise TimeoutError

    server = _Server("http://server", "meanwhile")
    for second in range(0, 1000, 5):
        clock[0] = max(clock[0], second)
        server.ask(hang)
    assert asked == [0, 70, 200, 450, 940]  # each ends 10 s later, the rests are 60, 120, 240, 480
    assert not server.ask(hang, last=True)
    assert len(asked) == 6
    clock[0] = 10_000
    assert server.ask(lambda: None)
    assert not server.ask(hang)
    assert asked[-1] == 10_000
    clock[0] = 10_070
    assert server.ask(lambda: None), "once it answered the rests begin anew"


# a server that comes and goes


class Server:
    """Stands for MlflowClient: keeps what it is sent, and fails at the calls it is told to fail at."""

    def __init__(self) -> None:
        self.down: dict[int, BaseException] = {}  # call number -> error
        self.lost: set[int] = set()  # numbers of calls that arrive, their answers not
        self.calls = 0
        self.told: list[str] = []  # what each call was
        self.runs: list[str] = []
        self.params: Counter[str] = Counter()
        self.metrics: list[tuple[str, float, int]] = []
        self.artifacts: list[str] = []
        self.status = ""

    def _called(self, what: str) -> None:
        self.calls += 1
        self.told.append(what)
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

    def create_run(self, experiment: str, run_name: str) -> Any:
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


MODELS = [f"bundle/models/{name}{suffix}.pt" for name in ("average", "model") for suffix in ("", "_final")]
FILES = ["config.yaml", "metrics.csv", "bundle/run.json", *MODELS]
BEFORE = ["experiment?", "experiment", "run?", "run", "run's state?", "settings", "file"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """In its tests no pictures are drawn."""
    found = Server()
    monkeypatch.setattr(Output, "_draw", lambda *told: [])
    monkeypatch.setattr(mlflow.tracking, "MlflowClient", lambda uri: found)
    return found


def steps(server: Server) -> list[int]:
    return [step for name, _, step in server.metrics if name == "epoch"]


def test_a_healthy_run_in_calls(tmp_path, server, caplog):
    """The numbers that the tests below count in."""
    train("http://server", tmp_path, epochs=3)
    assert server.told == [*BEFORE, "row", "row", "row", *["file"] * len(FILES), "end"]
    assert (len(server.runs), steps(server)) == (1, [3, 6, 9])
    assert (sorted(server.artifacts[1:]), server.status) == (sorted(FILES), "FINISHED")
    assert warnings(caplog) == []


@pytest.mark.parametrize("call", [*range(1, 7), 8, 9])
def test_what_fails_once_is_made_good_without_a_second_run_or_row(tmp_path, server, caplog, call):
    server.down = {call: ConnectionError("gone\nfor a moment")}
    train("http://server", tmp_path, epochs=4)
    assert len(server.runs) == 1
    assert steps(server) == [3, 6, 9, 12]
    assert set(server.params) == PARAMS
    assert server.status == "FINISHED"
    assert warnings(caplog) == [
        "MLflow at http://server does not answer (gone); metrics go to metrics.csv, retried each epoch."
    ]


@pytest.mark.fault("13", "calls fail for three epochs")
def test_rows_of_an_outage_are_sent_once_it_is_over(tmp_path, server):
    server.down = {call: ConnectionError("gone") for call in range(9, 12)}  # from the second row on, for three epochs
    train("http://server", tmp_path, epochs=6)
    assert steps(server) == [3, 6, 9, 12, 15, 18]


@pytest.mark.parametrize("call", [4, 6, 8, 11])
def test_a_run_or_row_whose_answer_got_lost_is_there_once(tmp_path, server, call):
    server.lost = {call}
    train("http://server", tmp_path, epochs=4)
    assert len(server.runs) == 1
    assert max(server.params.values()) == 1
    assert steps(server) == [3, 6, 9, 12]


def test_each_outage_is_told_once(tmp_path, server, caplog):
    server.down = {call: ConnectionError("gone") for call in (8, 9, 14)}
    train("http://server", tmp_path, epochs=8)
    assert len(warnings(caplog)) == 2
    assert steps(server) == list(range(3, 25, 3))


@pytest.mark.parametrize("error", [ConnectionError(), KeyError("x"), MemoryError(), ImportError("No module mlflow")])
def test_no_error_stops_a_training_not_even_one_without_a_text(tmp_path, server, caplog, error):
    server.down = dict.fromkeys(range(1, 99), error)
    train("http://server", tmp_path, epochs=2)
    assert len(rows(tmp_path)) == 2
    (message,) = warnings(caplog)
    assert message.startswith(
        f"MLflow at http://server does not answer ({str(error) or type(error).__name__}); metrics go"
    )


def test_a_store_of_files_that_is_broken_costs_no_metric_and_is_told(tmp_path, server, caplog):
    server.down = {7: OSError("no bucket"), 11: OSError("no bucket")}  # at the start, and at the end
    train("http://server", tmp_path, epochs=3)
    assert (steps(server), server.artifacts, server.status) == ([3, 6, 9], [], "FINISHED")
    assert warnings(caplog) == [f"MLflow at http://server takes no files (no bucket); they are in {tmp_path}."] * 2
    assert server.told[10:] == ["file", "end"], "each further file could cost a timeout"


@pytest.mark.fault("13", "gone to the end, then resumed")
def test_what_an_outage_to_the_end_kept_back_is_sent_by_a_resume_with_nothing_to_train(tmp_path, server):
    server.down = {call: ConnectionError("gone") for call in range(9, 99)}
    train("http://server", tmp_path, epochs=3)
    assert (steps(server), server.status) == ([3], "RUNNING")
    server.down = {}
    train("http://server", tmp_path, epochs=3, resume=True)
    assert (len(server.runs), steps(server), server.status) == (1, [3, 6, 9], "FINISHED")
    assert set(FILES) <= set(server.artifacts)


def test_a_run_that_goes_on_is_running_again_with_the_settings_it_had(tmp_path, server):
    with pytest.raises(ZeroDivisionError):
        failing_trainer("http://server", tmp_path, ZeroDivisionError()).run()
    assert (steps(server), server.status) == ([2], "FAILED")
    known, server.told = len(server.runs), []
    train("http://server", tmp_path, epochs=3, epoch_steps=2, resume=True)
    assert server.told[:5] == ["run's state?", "run's state?", "status", "row", "row"]
    assert (len(server.runs), steps(server), server.status) == (known, [2, 4, 6], "FINISHED")
    assert max(server.params.values()) == 1


def test_an_epoch_that_is_computed_again_is_not_sent_again(tmp_path, server):
    """The newest checkpoint is gone: the resumed run computes its epoch anew, to the same numbers."""
    train("http://server", tmp_path, epochs=3)
    (tmp_path / "last_0003.pt").unlink()
    train("http://server", tmp_path, epochs=3, resume=True)
    assert steps(server) == [3, 6, 9]


def test_another_address_gets_a_run_of_its_own_with_every_row(tmp_path, server, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        failing_trainer("http://server", tmp_path, ZeroDivisionError()).run()
    other = Server()
    monkeypatch.setattr(mlflow.tracking, "MlflowClient", lambda uri: other)
    train("http://other", tmp_path, epochs=3, epoch_steps=2, resume=True)
    assert (len(other.runs), steps(other), other.status) == (1, [2, 4, 6], "FINISHED")


@pytest.mark.parametrize("error", [ZeroDivisionError("once"), KeyboardInterrupt()])
def test_the_error_that_ends_a_run_is_raised_as_it_is_and_mlflow_is_told(tmp_path, server, error):
    with pytest.raises(type(error)) as raised:
        failing_trainer("http://server", tmp_path, error).run()
    assert raised.value is error
    assert server.status == "FAILED"
    assert server.artifacts[1:] == ["config.yaml", "metrics.csv"]


def test_the_folder_is_free_again_even_after_ctrl_c_while_a_tracker_waits(tmp_path, server):
    server.down = {9: KeyboardInterrupt(), 10: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        train("http://server", tmp_path, epochs=3)
    server.down = {}
    train("http://server", tmp_path, epochs=3, resume=True)
    assert steps(server) == [3, 6, 9]


def test_names_that_mlflow_refuses_are_written_in_its_letters(tmp_path, server):
    tracker = handler("http://server", tmp_path)
    tracker.update([{"step": 3, "val/core (T1), left": 0.5, "ärmel-1.0": 2}])
    assert {name for name, *_ in server.metrics} == {"step", "val/core__T1___left", "ärmel-1.0"}


def test_only_the_first_process_of_several_tracks(tmp_path, monkeypatch):
    monkeypatch.setattr("custom.distributed.rank", lambda: 1)
    tracker = handler("http://server", tmp_path)
    tracker.attach(Engine(lambda engine, batch: None))
    assert tracker.output.trackers == []


# MONAI's own handler, from --tracking mlflow


def stock(uri: str, folder: Path, **settings: Any) -> DualStreamTrainer:
    """A tiny trainer and its validator with the handlers that MONAI adds to their lists."""
    told = {"tracking_uri": uri, "experiment_name": "stock"}
    of_trainer = MLFlowHandler(**told, tag_name="train_loss", output_transform=from_engine(["loss"], first=True),
                               close_on_complete=True)  # fmt: skip
    of_validator = MLFlowHandler(**told, iteration_log=False)
    bar = StatsHandler()
    assert harmless([bar]) == [bar], "others stay as they are"
    trainer = tiny.trainer("supervised", folder, handlers=harmless([of_trainer]), **settings)
    trainer.validator._register_handlers(harmless([of_validator]))  # type: ignore[union-attr]
    ValidationHandler(1, trainer.validator).attach(trainer)  # type: ignore[arg-type]
    return trainer


def test_what_monai_logs_is_the_row_of_the_epoch_and_the_loss_of_each_iteration(tmp_path, database):
    crashing = stock(database, tmp_path / "crashing", epochs=1)
    crashing.add_event_handler(Events.EPOCH_COMPLETED, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        crashing.run()
    stock(database, tmp_path / "run", epochs=2).run()
    client, expected = MlflowClient(database), rows(tmp_path / "run")
    run = runs_of(client, "stock")[-1]
    assert run.info.status == "FINISHED"

    def history(name: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]

    assert [step for step, _ in history("train_loss")] == [1, 2, 3, 4, 5, 6]
    assert history("term/supervised") == [(e, float(row["term/supervised"])) for e, row in enumerate(expected, start=1)]
    assert history("val_mean_dice") == history("val/network/dice_mean")
    assert [step for step, _ in history("val_mean_dice")] == [1, 2]


@pytest.mark.fault("13", "port closed under MONAI's own handler")
def test_monais_handler_cannot_stop_a_training_and_says_it_once(tmp_path, caplog, closed_port):
    stock(closed_port, tmp_path, epochs=2).run()
    (message,) = warnings(caplog)
    assert message.startswith(f"MLflow at {closed_port} does not answer (")
    assert message.endswith("); metrics go to metrics.csv, those of an outage to it alone.")
    assert len(rows(tmp_path)) == 2


def test_monais_handler_begins_its_run_once_the_server_is_there(tmp_path, database, monkeypatch):
    trainer = stock(database, tmp_path / "run", epochs=2)
    real, calls = MlflowClient.get_experiment_by_name, []

    def late(self: Any, name: str) -> Any:
        calls.append(name)
        if len(calls) == 1:
            raise ConnectionError("not yet")
        return real(self, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    trainer.run()
    (run,) = runs_of(MlflowClient(database), "stock")
    assert (run.info.status, run.data.metrics["epoch"]) == ("FINISHED", 2)


def test_monais_handler_keeps_files_beside_a_database_whose_path_has_a_space(tmp_path, empty):
    folder = tmp_path / "a run"
    folder.mkdir()
    handler = MLFlowHandler(path_to_sqlite_uri(shutil.copy(empty, folder)))
    harmless([handler])
    assert handler.artifact_location == (folder / "mlruns").as_uri()


# the config


@pytest.mark.slow
def test_mlflow_uri_of_a_config_tracks_the_run_and_its_whole_bundle(tmp_path, run_bundle):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    out = run_bundle(ROOT / "bundles/supervised", **TINY, mlflow_uri=uri)
    client = MlflowClient(uri)
    (run,) = runs_of(client, "supervised")
    assert run.data.params["steps"] == "4"
    assert run.data.metrics["epoch"] == len(rows(out)) == 2
    assert (run.data.tags["method"], run.data.tags["labelled_patients"]) == ("Supervised", "2")
    bundle = {str(path.relative_to(out)) for path in (out / "bundle").rglob("*.*") if path.is_file()}
    assert {"bundle/configs/train.yaml", "bundle/scripts/trainer.py"} <= bundle
    assert {f for f in bundle if "__pycache__" not in f} <= files_of(client, run)


@pytest.mark.slow
def test_tracking_mlflow_of_monais_command_line_keeps_the_run_below_output_dir(tmp_path, run_bundle):
    out = run_bundle(ROOT / "bundles/supervised", **TINY, tracking="mlflow")
    client = MlflowClient(f"sqlite:///{out}/mlruns.db")
    (run,) = runs_of(client, "monai_experiment")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["epoch"] == len(rows(out)) == 2
    assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 4
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val_mean_dice")] == [1, 2]


@pytest.mark.fault("13", "port closed under --tracking mlflow")
def test_tracking_mlflow_of_monais_command_line_without_its_server_trains_to_the_end(
    tmp_path, run_bundle, closed_port, caplog
):
    out = run_bundle(ROOT / "bundles/supervised", **TINY, tracking="mlflow", tracking_uri=closed_port)
    assert len(rows(out)) == 2
    assert len([text for text in warnings(caplog) if text.startswith(f"MLflow at {closed_port} does not answer")]) == 1
