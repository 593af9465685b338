"""Nothing piles up over a run with all that a run does: steps, validation, tables, checkpoints, served weights."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator

import pytest
import tiny
import torch
from ignite.engine import Events
from monai.handlers import ValidationHandler

EPOCH_STEPS = 10


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """What was there before is not counted, nor searched for garbage."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def alive() -> dict[str, int]:
    """How much there is of what a leak leaves behind."""
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(isinstance(x, torch.Tensor) for x in objects)
    return {"tensors": tensors, "objects": len(objects), "files": len(os.listdir("/proc/self/fd"))}


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.fault("16", "tensors, objects and open files counted 20 steps apart")
def test_steps_validations_and_checkpoints_leave_nothing_behind(tmp_path, caplog):
    trainer = tiny.trainer("mean_teacher", tmp_path, epochs=5, epoch_steps=EPOCH_STEPS)
    ValidationHandler(1, trainer.validator).attach(trainer)
    found = {}
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: found.update({trainer.step: alive()}))
    with caplog.at_level(logging.WARNING):
        trainer.run()
    one, two = found[2 * EPOCH_STEPS], found[4 * EPOCH_STEPS]
    more = {kind: two[kind] - one[kind] for kind in one}
    assert (more["tensors"], more["files"]) == (0, 0)
    assert more["objects"] < EPOCH_STEPS, "less than one in two steps: the run keeps a row of its table an epoch"
