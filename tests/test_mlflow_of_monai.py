"""The promises of ``--tracking mlflow``: our tracker keeps the run where MONAI's own handler would, and stops no training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY
from mlflow.tracking import MlflowClient
from mlflow_runs import SETTINGS, rows, runs_of, warnings
from monai.bundle import ConfigParser
from monai.handlers import MLFlowHandler, StatsHandler, from_engine

from custom.run.config import RunConfig
from custom.run.mlflow import MLflow, ours_for_monais, without_monais
from custom.run.output import Output

pytestmark = pytest.mark.usefixtures("mlflow_environment")


def of_monai(uri: str, **settings: Any) -> MLFlowHandler:
    """The handler that MONAI adds to a trainer's."""
    return MLFlowHandler(uri, tag_name="train_loss", output_transform=from_engine(["loss"], first=True),
                         close_on_complete=True, **settings)  # fmt: skip


def output(folder: Path) -> Output:
    return Output(folder, RunConfig(ConfigParser(SETTINGS)))


def test_ours_takes_the_address_the_experiment_and_the_run_name_of_monais(tmp_path):
    stats = StatsHandler()
    monais = of_monai("http://host:1", experiment_name="hearts", run_name="the first")
    kept, ours = ours_for_monais([monais, stats], output(tmp_path))
    assert kept is stats, "others stay as they are"
    assert isinstance(ours, MLflow)
    assert (ours.uri, ours.experiment, ours.run_name) == ("http://host:1", "hearts", "the first")


def test_a_validators_is_dropped(tmp_path):
    stats = StatsHandler()
    assert without_monais([of_monai("http://host:1"), stats]) == [stats]


def test_a_trainer_without_an_output_has_nothing_to_send():
    assert ours_for_monais([of_monai("http://host:1")], None) == []


def test_beside_mlflow_uri_it_adds_nothing_and_the_log_says_so(tmp_path, caplog):
    folder = output(tmp_path)
    assert folder.config is not None
    ours = MLflow("http://host:1", folder.config, folder)
    with caplog.at_level(logging.INFO):
        assert ours_for_monais([ours, of_monai("http://host:2")], folder) == [ours]
    assert "http://host:2" in caplog.text


def test_two_runs_of_one_name_are_two(tmp_path, database):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        tracked = output(tmp_path / str(number))
        (ours,) = ours_for_monais([of_monai(database, experiment_name="hearts", run_name="mine")], tracked)
        ours.begin([{"step": 3, "loss": number}])
    runs = runs_of(MlflowClient(database), "hearts")
    assert [(run.info.run_name, run.data.metrics["loss"]) for run in runs] == [("mine", 1), ("mine", 2)]


@pytest.mark.slow
def test_tracking_mlflow_of_monais_command_line_keeps_the_run_below_output_dir(tmp_path, run_bundle):
    out = run_bundle(ROOT / "bundles/supervised", **TINY, tracking="mlflow")
    client = MlflowClient(f"sqlite:///{out}/mlruns.db")
    (run,) = runs_of(client, "monai_experiment")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["epoch"] == len(rows(out)) == 2
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val/network/dice_mean")] == [2, 4]


@pytest.mark.fault("13", "port closed under --tracking mlflow")
def test_tracking_mlflow_of_monais_command_line_without_its_server_trains_to_the_end(
    tmp_path, run_bundle, closed_port, caplog
):
    out = run_bundle(ROOT / "bundles/supervised", **TINY, tracking="mlflow", tracking_uri=closed_port)
    assert len(rows(out)) == 2
    assert len([text for text in warnings(caplog) if text.startswith(f"MLflow at {closed_port} does not answer")]) == 1
