"""Reading, network and writing overlap, by custom/inference/ahead.py and saving.py: order and results as without."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import Dataset, MetaTensor
from saying import raises
from scan_files import write_nifti
from waiting import until

from custom.errors import UserError
from custom.files import FileError
from custom.inference.ahead import AheadDataLoader
from custom.inference.saving import SavePredictiond

SHAPE = (6, 5, 4)


def test_batches_come_in_order_read_by_one_thread_and_one_ahead():
    read, threads = [], set()

    def reading(number: int) -> int:
        read.append(number)
        threads.add(threading.current_thread().name)
        return number

    for number, batch in enumerate(AheadDataLoader(Dataset(list(range(5)), reading), batch_size=1, num_workers=0)):
        assert batch.tolist() == [number]
        until(lambda now=number: len(read) >= min(now + 2, 5))
        assert read == list(range(min(number + 2, 5)))  # this one and the next
    assert threads == {"reading_0"}
    assert len(AheadDataLoader(Dataset([1, 2, 3]), batch_size=1, num_workers=0)) == 3


def test_where_there_is_no_room_for_it_the_next_one_is_read_when_it_is_asked_for(monkeypatch):
    asked: list[object] = []
    submit = ThreadPoolExecutor.submit
    monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda *a: asked.append(a) or submit(*a))
    loader = AheadDataLoader(list(range(4)), ahead=[False, True, False, False], batch_size=1, num_workers=0)
    assert [(batch.item(), len(asked)) for batch in loader] == [(0, 1), (1, 3), (2, 3), (3, 4)]


def test_what_reading_raises_comes_where_its_batch_would():
    def reading(number: int) -> int:
        if number == 2:
            raise UserError("p2.nii.gz: damaged")
        return number

    batches = iter(AheadDataLoader(Dataset(list(range(4)), reading), batch_size=1, num_workers=0))
    assert [next(batches).item(), next(batches).item()] == [0, 1]
    with pytest.raises(RuntimeError) as error:
        next(batches)
    assert str(error.value.__cause__) == "p2.nii.gz: damaged"  # as the DataLoader of MONAI raises it


def test_a_loop_that_ends_early_ends_the_thread():
    for _ in AheadDataLoader(Dataset(list(range(4))), batch_size=1, num_workers=0):
        break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reading")]


def pred(folder: Path, name: str, value: int = 1) -> dict[str, MetaTensor]:
    image = folder / f"{name}.nii.gz"
    if not image.exists():
        write_nifti(image, np.zeros(SHAPE, np.int16))
    return {
        "pred": MetaTensor(torch.full((1, *SHAPE), value), meta={"filename_or_obj": str(image), "spatial_shape": SHAPE})
    }


def test_a_prediction_is_written_while_the_next_one_is_made(tmp_path):
    going, seen = threading.Event(), []

    def written(path: Path, sha256: str) -> None:
        seen.append(path.name)
        assert going.wait(10)

    saving = SavePredictiond(tmp_path / "out", [0, 1])
    saving.written = written
    saving(pred(tmp_path, "p1"))  # returns, although nothing is written yet
    assert not list((tmp_path / "out").glob("[!.]*_pred.*"))
    going.set()
    saving(pred(tmp_path, "p2"))
    saving.finish()
    assert seen == sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p1_pred.nii.gz", "p2_pred.nii.gz"]


@pytest.mark.parametrize("last", [False, True])
def test_what_writing_raises_ends_the_run_with_its_own_text(tmp_path, last):
    saving = SavePredictiond(tmp_path / "out", [0, 1])
    engine = Engine(lambda _, batch: saving(batch))
    saving.attach(engine)
    cases = [pred(tmp_path, "p1", value=7), *([] if last else [pred(tmp_path, "p2")])]
    found = ("p1.nii.gz", "the values {7}", "the task names 0..1")
    with raises(UserError, *found, "AsDiscreted and MapLabelValued before SaveImaged"):
        engine.run(cases)
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_is_told_plainly(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    saving = SavePredictiond(tmp_path / "out", [0, 1])
    monkeypatch.setattr("os.fsync", full)
    saving(pred(tmp_path, "p1"))
    with pytest.raises(FileError, match=rf"^Cannot write p1_pred.nii.gz: no space on {tmp_path}/out"):
        saving.finish()
    assert not list((tmp_path / "out").iterdir())
