"""A resumed run is, bit for bit, the run that was never interrupted."""

from __future__ import annotations

import functools
import logging
import shutil

import pytest
import tiny
import torch
from ignite.engine import Events
from run_config import config_of
from saying import raises, says

from custom.methods.schedule import PolyDecay
from custom.run.checkpoint import CheckpointError
from custom.run.output import Output
from custom.training.precision import autocast_dtype


class Killed(BaseException):
    """Not an Exception: nothing on the way may catch it, as nothing catches a kill -9."""


def flat(value, prefix=""):
    """Every tensor and number of a nested state by its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{prefix}{key}/")
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            yield from flat(item, f"{prefix}{key}/")
    else:
        yield prefix, value


def assert_same_state(a, b):
    a, b = dict(flat(a)), dict(flat(b))
    assert a.keys() == b.keys()
    for key in a:
        same = torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]
        assert same, key


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """``finished(which)``: a run of six epochs that was never interrupted, made once: its trainer and its folder."""

    @functools.cache
    def make(which):
        folder = tmp_path_factory.mktemp(which)
        return straight(folder, which), folder

    return make


@pytest.fixture
def copy(finished, tmp_path):
    """``copy(which)``: the same, in a folder of the test's own."""

    def make(which):
        trainer, folder = finished(which)
        return trainer, shutil.copytree(folder, tmp_path / which)

    return make


def straight(folder, which, **settings):
    trainer = tiny.trainer(which, folder, epochs=6, **settings)
    trainer.run()
    return trainer


def interrupted(folder, which, kill_at_step=10, **settings):
    trainer = tiny.trainer(which, folder, epochs=6, **settings)
    original = trainer.method.after_step

    def after_step(progress):
        original(progress)
        if progress.step == kill_at_step:
            raise Killed

    trainer.method.after_step = after_step
    with pytest.raises(Killed):
        trainer.run()
    trainer = tiny.trainer(which, folder, epochs=6, resume=True, **settings)
    trainer.run()
    return trainer


CELLS = [
    pytest.param("mean_teacher", {}, id="mean teacher"),
    pytest.param("mean_teacher", {"accumulate": 2}, id="accumulation of 2"),
    pytest.param("mean_teacher", {"amp": "bf16"}, id="bf16"),
    pytest.param("mean_teacher", {"amp": "fp16"}, id="fp16 with its scaler"),
    pytest.param("mean_teacher", {"optimizer": "adam"}, id="adam"),
    pytest.param("mean_teacher", {"lr_schedule": PolyDecay(0.9), "clip": 1.0}, id="schedule and clipping"),
]
CELLS += [pytest.param(name, {}, id=name) for name in tiny.METHODS if name != "mean_teacher"]


@pytest.mark.fault("2", "stopped in the fourth of six epochs: precisions, accumulation, optimisers")
@pytest.mark.parametrize(("which", "settings"), CELLS)
def test_resume_is_exact(finished, tmp_path, which, settings, caplog):
    folder = tmp_path / "straight"
    reference, folder = (straight(folder, which, **settings), folder) if settings else finished(which)
    with caplog.at_level(logging.INFO):
        resumed = interrupted(tmp_path / "killed", which, **settings)
    assert "Resumed from last_0003.pt: epoch 4 of 6." in caplog.text
    assert_same_state(reference.state_dict(), resumed.state_dict())
    models = sorted((folder / "bundle/models").glob("*.pt"))
    assert models
    for path in models:
        again = tmp_path / "killed/bundle/models" / path.name
        assert_same_state(*(torch.load(file, weights_only=True) for file in (path, again)))


def test_the_best_score_survives_a_resume(tmp_path):
    """The best epoch lies before the kill: without its score the first epoch after it would take its place."""
    scores = [0.5, 0.9, 0.6, 0.7, 0.8, 0.4]
    killed = tiny.scripted(scores, tmp_path)
    killed.add_event_handler(Events.EPOCH_STARTED(once=4), lambda: killed.terminate())
    killed.run()
    best = torch.load(tmp_path / "bundle/models/model.pt", weights_only=True)
    resumed = tiny.scripted(scores, tmp_path, resume=True)
    resumed.run()
    assert resumed.best == {"score": 0.9, "epoch": 2}
    assert_same_state(best, torch.load(tmp_path / "bundle/models/model.pt", weights_only=True))


def test_the_table_of_a_resumed_run_has_every_epoch_once(tmp_path):
    interrupted(tmp_path, "supervised")
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_has_nothing_to_resume(copy, caplog):
    trainer, folder = copy("supervised")
    before = trainer.state_dict()
    again = tiny.trainer("supervised", folder, epochs=6, resume=True)
    with caplog.at_level(logging.INFO):
        again.run()
    assert "last_0006.pt: all 6 epochs are done, nothing to train." in caplog.text
    assert_same_state(before, again.state_dict())


def test_resume_in_an_empty_folder_starts_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        tiny.trainer("supervised", tmp_path, epochs=1, resume=True).run()
    assert "starting from the first epoch" in caplog.text


@pytest.mark.fault("17", "a finished run without its checkpoints, resumed")
def test_a_resume_without_a_checkpoint_moves_a_finished_run_aside(copy, caplog):
    """It overwrote the finished bundle, epoch by epoch, and left the old evaluation beside it."""
    _, folder = copy("mean_teacher")
    for path in folder.glob("last_*.pt"):
        path.unlink()
    (folder / "evaluation/test").mkdir(parents=True)
    (folder / "evaluation/test/model.csv").write_text("case\n")
    served = (folder / "bundle/models/model.pt").read_bytes()
    with caplog.at_level(logging.INFO):
        tiny.trainer("mean_teacher", folder, epochs=1, resume=True).run()
    aside = folder / "earlier/001"
    says(caplog.text, f"{folder} holds an earlier run without a checkpoint", f"moved to {aside}", "--resume true")
    assert f"No checkpoint in {folder}: starting from the first epoch." in caplog.text
    assert (aside / "bundle/models/model.pt").read_bytes() == served
    assert {"bundle", "evaluation", "metrics.csv"} <= {path.name for path in aside.iterdir()}
    assert not (folder / "evaluation").exists()
    assert len((folder / "metrics.csv").read_text().splitlines()) == 2, "a header and one epoch"


def test_a_start_that_was_killed_before_its_first_checkpoint_goes_on_in_its_place(tmp_path):
    trainer = tiny.trainer("supervised", tmp_path, epochs=1)
    trainer.method.after_step = _die
    with pytest.raises(Killed):
        trainer.run()
    (tmp_path / "mlflow.json").write_text("{}")
    tiny.trainer("supervised", tmp_path, epochs=1, resume=True).run()
    assert (tmp_path / "mlflow.json").exists(), "the same run of MLflow"
    assert not (tmp_path / "earlier").exists()


def _die(progress):
    raise Killed


@pytest.mark.fault("2", "evaluated half-way, then resumed")
def test_an_evaluation_made_half_way_is_moved_aside_when_the_run_goes_on(tmp_path, caplog):
    """It would lie beside weights that it is not of."""
    tiny.trainer("supervised", tmp_path, epochs=1).run()
    (tmp_path / "evaluation/test").mkdir(parents=True)
    tiny.trainer("supervised", tmp_path, epochs=1, resume=True).run()
    assert (tmp_path / "evaluation/test").exists(), "all epochs are done: of the same weights"
    with caplog.at_level(logging.INFO):
        tiny.trainer("supervised", tmp_path, epochs=2, resume=True).run()
    aside = tmp_path / "earlier/001"
    assert f"{tmp_path} was evaluated before its end: moved to {aside} (evaluate again at the end" in caplog.text
    assert [path.name for path in aside.iterdir()] == ["evaluation"]
    assert not (tmp_path / "evaluation").exists()
    assert (tmp_path / "last_0002.pt").exists()


@pytest.mark.fault("2b", "newest cut, resumed")
def test_an_unreadable_newest_checkpoint_costs_one_epoch(copy, caplog):
    reference, broken = copy("mean_teacher")
    newest = broken / "last_0006.pt"
    newest.write_bytes(newest.read_bytes()[:2000])
    again = tiny.trainer("mean_teacher", broken, epochs=6, resume=True)
    with caplog.at_level(logging.INFO):
        again.run()
    assert "last_0006.pt cannot be read" in caplog.text
    assert "Resumed from last_0005.pt: epoch 6 of 6." in caplog.text
    assert_same_state(reference.state_dict(), again.state_dict())


@pytest.mark.fault("2b", "all cut")
def test_no_readable_checkpoint_is_an_error_not_a_new_run(copy):
    _, folder = copy("supervised")
    for path in folder.glob("last_*.pt"):
        path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"last_0006\.pt"):
        tiny.trainer("supervised", folder, epochs=6, resume=True).run()


@pytest.mark.fault("2c", "other scans")
def test_other_scans_are_refused(copy):
    _, folder = copy("supervised")
    with pytest.raises(CheckpointError, match="data: the labelled scans are not those it was trained on"):
        tiny.trainer("supervised", folder, epochs=6, labelled=4, resume=True).run()


@pytest.mark.fault("2c", "another number of processes")
@pytest.mark.parametrize(("then", "now"), [(2, 1), (1, 2), (8, 4)])
def test_another_number_of_processes_is_refused(tmp_path, monkeypatch, then, now):
    """Batches are drawn by process: with others it would be another run."""
    monkeypatch.setattr("custom.distributed.world_size", lambda: then)
    Output(tmp_path).checkpoint({"epoch": 1}, 1, {})
    assert Output(tmp_path).newest_checkpoint({}) is not None
    monkeypatch.setattr("custom.distributed.world_size", lambda: now)
    line = f"number of processes: written by {then}, this run has {now}"
    with raises(CheckpointError, "Cannot resume from", "last_0001.pt", line, f"give torchrun {then} again"):
        Output(tmp_path).newest_checkpoint({})


@pytest.mark.fault("2c", "another number format")
@pytest.mark.parametrize(
    ("then", "now", "line"),
    [
        ("bf16", "off", "computed in bfloat16, this run would go on in float32: give --amp bf16"),
        ("bf16", "fp16", "computed in bfloat16, this run would go on in float16: give --amp bf16"),
        ("off", "bf16", "computed in float32, this run would go on in bfloat16: give --amp off"),
        ("fp16", "off", "computed in float16, this run would go on in float32: give --amp fp16"),
    ],
)
def test_another_number_format_is_refused(tmp_path, monkeypatch, then, now, line):
    """`auto` is what the machine computes in: the same config on another one."""
    formats = iter([then, now])
    monkeypatch.setattr(
        "custom.training.trainer.autocast_dtype", lambda *_: autocast_dtype(next(formats), torch.device("cpu"))
    )
    straight(tmp_path, "supervised", amp="auto")
    with pytest.raises(CheckpointError) as caught:
        straight(tmp_path, "supervised", amp="auto", resume=True)
    assert str(caught.value).splitlines()[1] == f"  {line}"


def test_the_format_decides_and_not_how_it_was_asked_for(tmp_path):
    """`auto` and the format that it meant are one run; of a checkpoint that names no format the setting is compared."""
    Output(tmp_path, config_of(amp="auto")).checkpoint({"epoch": 1}, 1, {}, amp="bf16")
    for asked in ("auto", "bf16"):
        found = Output(tmp_path, config_of(amp=asked)).newest_checkpoint({}, "bf16")
        assert found is not None
        assert found[0] == {"epoch": 1}
    older = torch.load(tmp_path / "last_0001.pt", weights_only=True)
    torch.save({name: value for name, value in older.items() if name != "amp"}, tmp_path / "last_0001.pt")
    with pytest.raises(CheckpointError, match="  written with amp='auto', this config has 'bf16'"):
        Output(tmp_path, config_of(amp="bf16")).newest_checkpoint({}, "bf16")


def test_a_foreign_file_is_named(tmp_path):
    torch.save({"weights": 1}, tmp_path / "last_0001.pt")
    with pytest.raises(
        CheckpointError, match=r"last_0001\.pt is not a checkpoint of this trainer: it has the entries \['weights'\]"
    ):
        tiny.trainer("supervised", tmp_path, resume=True).run()


def test_epochs_do_not_depend_on_what_was_drawn_before(tmp_path):
    """Seeds come from (seed, epoch, rank): two runs of other seeds differ, the same seed repeats."""
    states = []
    for number, seed in enumerate((0, 0, 1)):
        trainer = tiny.trainer("mean_teacher", tmp_path / str(number), epochs=2, seed=seed)
        trainer.run()
        states.append(trainer.state_dict())
    assert_same_state(*states[:2])
    with pytest.raises(AssertionError):
        assert_same_state(states[0], {**states[2], "seed": 0})
