"""The promises of custom/run/tensorboard.py: every run leaves its curves, each point once, and none of it stops a run."""

from __future__ import annotations

import builtins
import logging
import math
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from ignite.engine import Events
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter

from custom.run.output import Output
from custom.run.tensorboard import TensorBoard
from custom.training.trainer import DualStreamTrainer

ROWS = [{"epoch": e, "step": 3 * e, "term/supervised": 1 / e, "val/network/dice_mean": e / 10} for e in range(1, 6)]


@pytest.fixture(autouse=True)
def _files_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one second are read in the order of their number in the process, 10 before 9: each test begins at 0."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Points of every scalar of a run's folder, as TensorBoard shows them."""
    shown = EventAccumulator(str(folder / "tensorboard"))
    shown.Reload()
    return {tag: [(e.step, e.value) for e in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


def expected(rows: Any) -> dict[str, list[tuple[int, float]]]:
    """The columns of rows in the single precision of event files, over the step."""
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    return {name: [(row["step"], float(np.float32(row[name]))) for row in rows if name in row] for name in names}


def write(folder: Path, rows: Any, before: int = 0, close: bool = True) -> TensorBoard:
    """A process that begins behind ``before`` rows and adds the others one by one."""
    board = TensorBoard(Output(folder))
    board.begin(rows[:before])
    for count in range(before + 1, len(rows) + 1):
        board.update(rows[:count])
    if close:
        board.close()
    return board


def warned(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(r.levelno, r.getMessage()) for r in caplog.records if r.name == "custom.run.tensorboard"]


def test_every_column_of_every_row_is_a_point_over_the_step(tmp_path):
    write(tmp_path, ROWS)
    assert curves(tmp_path) == expected(ROWS)


def test_a_column_that_comes_late_begins_late_and_nan_is_nan(tmp_path):
    rows = [ROWS[0], {**ROWS[1], "term/consistency": math.nan}, {**ROWS[2], "term/consistency": 0.5}]
    write(tmp_path, rows)
    (first, nan), second = curves(tmp_path)["term/consistency"]
    assert (first, second) == (6, (9, 0.5))
    assert math.isnan(nan)


def test_a_row_can_be_read_while_the_run_goes_on(tmp_path):
    write(tmp_path, ROWS[:2], close=False)
    assert curves(tmp_path) == expected(ROWS[:2])


def test_a_resumed_run_has_no_point_twice_and_none_missing(tmp_path):
    """Five epochs were written; the newest whole checkpoint was that of the third."""
    write(tmp_path, ROWS)
    again = [*ROWS[:3], *({**row, "seconds": 1.0} for row in ROWS[3:])]
    write(tmp_path, again, before=3)
    assert curves(tmp_path) == expected(again)


def test_a_row_that_was_lost_with_its_process_is_there_after_the_resume(tmp_path):
    """Killed behind the checkpoint of epoch 3 and before its row was written."""
    write(tmp_path, ROWS[:2])
    write(tmp_path, ROWS, before=3)
    assert curves(tmp_path) == expected(ROWS)


def test_rows_of_before_are_written_where_no_event_file_is(tmp_path):
    write(tmp_path, ROWS, before=3)
    assert curves(tmp_path) == expected(ROWS)


def test_nothing_is_made_before_the_first_row(tmp_path):
    board = TensorBoard(Output(tmp_path))
    board.begin([])
    board.close()
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_package_is_one_line_of_information(tmp_path, monkeypatch, caplog):
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError("No module named 'tensorboard'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with caplog.at_level(logging.INFO):
        write(tmp_path, ROWS)
    ((level, text),) = warned(caplog)
    assert level == logging.INFO
    assert "No module named 'tensorboard'" in text


def test_a_folder_that_cannot_be_made_is_one_warning_and_rows_wait_until_it_can(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file is in the way")
    board = write(tmp_path, ROWS[:3], close=False)
    ((level, text),) = warned(caplog)
    assert level == logging.WARNING
    assert f"Cannot write {tmp_path / 'tensorboard'}" in text
    assert "metrics.csv" in text
    (tmp_path / "tensorboard").unlink()
    board.update(ROWS)
    assert curves(tmp_path) == expected(ROWS)


def test_rows_behind_the_one_that_fails_wait_and_those_before_are_not_doubled(tmp_path, monkeypatch):
    real, calls = SummaryWriter.flush, []

    def third_fails(self: SummaryWriter) -> None:
        calls.append(self)
        if len(calls) == 3:
            raise OSError("no space")
        real(self)

    monkeypatch.setattr(SummaryWriter, "flush", third_fails)
    board = TensorBoard(Output(tmp_path))
    board.begin([])
    board.update(ROWS)
    assert board._written == 2
    board.update(ROWS)
    assert curves(tmp_path) == expected(ROWS)


def on_a_full_disk(folder: Path, said: int) -> None:
    """Run in a process of its own, where a limit on the size of files stands for the disk."""
    sys.stderr = os.fdopen(said, "w")
    logging.basicConfig(format="%(levelname)s %(message)s", force=True)
    board = TensorBoard(Output(folder))
    board.update(ROWS[:2])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    board.update(ROWS[:3])
    board.update(ROWS[:4])
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    board.update(ROWS)
    board.close()
    sys.stderr.flush()


def test_a_full_disk_is_one_warning_and_rows_wait_until_there_is_space(tmp_path):
    """Nothing else is said, and no point of it is there twice."""
    fork = multiprocessing.get_context("fork")  # it has all imports
    mouth, said = os.pipe()
    process = fork.Process(target=on_a_full_disk, args=(tmp_path, said))
    process.start()
    os.close(said)
    with os.fdopen(mouth) as pipe:
        text = pipe.read()
    process.join()
    assert process.exitcode == 0, text
    (line,) = text.splitlines()
    assert line.startswith(f"WARNING Cannot write {tmp_path}/tensorboard: ")
    assert "File too large" in line
    assert curves(tmp_path) == expected(ROWS)


# in a training


def followed(which: str, folder: Path, **settings: Any) -> DualStreamTrainer:
    trainer = tiny.trainer(which, folder, **settings)
    assert trainer.output is not None
    TensorBoard(trainer.output).attach(trainer)
    return trainer


def test_a_training_leaves_its_rows_and_a_resume_goes_on_in_them(tmp_path):
    stopped = followed("mean_teacher", tmp_path, epochs=3)
    stopped.add_event_handler(Events.EPOCH_STARTED(once=3), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stopped.run()
    whole = followed("mean_teacher", tmp_path, epochs=3, resume=True)
    whole.run()
    assert len(whole.output.rows) == 3  # type: ignore[union-attr]
    assert curves(tmp_path) == expected(whole.output.rows)  # type: ignore[union-attr]


def test_a_new_run_moves_the_curves_of_an_earlier_one_aside(tmp_path):
    for epochs in (2, 1):
        followed("supervised", tmp_path, epochs=epochs).run()
    assert len(curves(tmp_path / "earlier/001")["epoch"]) == 2
    assert len(curves(tmp_path)["epoch"]) == 1


def test_pictures_are_shown_beside_the_curves(tmp_path):
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(tmp_path / "learning_curves.png")
    board = write(tmp_path, ROWS, close=False)
    board.finish(ROWS)
    board.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    (picture,) = shown.Images("learning_curves")
    assert (picture.step, picture.width, picture.height) == (15, 6, 4)
    assert curves(tmp_path) == expected(ROWS)


def test_a_resume_with_nothing_to_train_shows_the_pictures_and_loses_no_point(tmp_path):
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(tmp_path / "validation.png")
    write(tmp_path, ROWS)
    board = write(tmp_path, ROWS, before=len(ROWS), close=False)
    board.finish(ROWS)
    board.close()
    assert curves(tmp_path) == expected(ROWS)
