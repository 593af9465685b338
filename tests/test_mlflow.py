"""The promises of custom/run/mlflow.py: what MLflow has of a run that nothing disturbs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY
from mlflow.tracking import MlflowClient
from mlflow_runs import failing_trainer, files_of, rows, runs_of, tracker, train

from custom.run.mlflow import TrackingError, _artifacts_beside, _task

pytestmark = pytest.mark.usefixtures("mlflow_environment")


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
        train(uri, folder / "one", which="mean_teacher", pictures=True, epochs=3)
        train(uri, folder / "two", epochs=1)
        for name in ("fails", "resumed"):
            with pytest.raises(ZeroDivisionError):
                failing_trainer(uri, folder / name, ZeroDivisionError()).run()
        train(uri, folder / "resumed", epochs=3, epoch_steps=2, resume=True)
    return folder, MlflowClient(uri)


@pytest.mark.parametrize(("number", "name"), [(0, "one"), (3, "resumed")])
def test_every_epoch_of_metrics_csv_arrives_once_the_last_too(tracked, number, name):
    folder, client = tracked
    run, expected = runs_of(client)[number], rows(folder / name)
    assert len(expected) == 3
    for column in expected[0]:
        history = sorted(client.get_metric_history(run.info.run_id, column.replace(" ", "_")), key=lambda m: m.step)
        sent = [(int(row["step"]), repr(float(row[column]))) for row in expected if row[column]]
        assert [(m.step, repr(m.value)) for m in history] == sent, column  # nan is nan
    assert any(column.startswith("val/") for column in run.data.metrics)


def test_the_settings_are_parameters_and_components_are_not(tracked):
    assert runs_of(tracked[1])[0].data.params == {
        "bundle_root": "runs/my bundle", "learning_rate": "0.05", "widths": "[4, 8]", "steps": "9", "seed": "3",
        "data_list": "phantom:2d", "weights": "{'supervised': 1.0}"}  # fmt: skip


def test_tags_say_method_task_seed_version_and_how_many_scans_it_learns_from(tracked):
    """The tiny cohort: three labelled and three unlabelled scans, each of a patient of its own."""
    mean_teacher, supervised = (dict(run.data.tags) for run in runs_of(tracked[1])[:2])
    assert {k: v for k, v in mean_teacher.items() if not k.startswith("mlflow.") and k != "folder"} == {
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
    with pytest.raises(
        TrackingError, match=r"is not an address: expected sqlite:////absolute/path\.db, or a server http"
    ):
        tracker(uri, tmp_path)


@pytest.mark.parametrize(
    ("data_list", "task"),
    [("phantom:3d", "phantom:3d"), ("/data/acdc/list.json", "acdc/list"), ("l.json", "l"), ("", "")],
)
def test_a_list_is_named_with_its_folder(data_list, task):
    assert _task(data_list) == task


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
