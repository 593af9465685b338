"""Memory stays flat over a long run with all that a run does: steps, validation, tables, checkpoints, served weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from ignite.engine import Events
from monai.handlers import ValidationHandler

STEPS, EPOCH_STEPS = 800, 20


def resident_mb() -> float:
    """Of this process, as the kernel counts it."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Pictures of 16 x 16: a second thread only waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.fault("16", "800 steps with validation, checkpoints, table, log")
def test_memory_is_flat_over_800_steps(tmp_path, caplog):
    trainer = tiny.trainer("mean_teacher", tmp_path, epochs=STEPS // EPOCH_STEPS, epoch_steps=EPOCH_STEPS)
    ValidationHandler(1, trainer.validator).attach(trainer)
    steps, resident = [], []

    def look() -> None:
        steps.append(trainer.step)
        resident.append(resident_mb())

    trainer.add_event_handler(Events.EPOCH_STARTED, look)
    with caplog.at_level(logging.WARNING):
        trainer.run()
    settled = len(steps) // 4  # allocators grow to what one epoch needs
    slope = np.polyfit(steps[settled:], resident[settled:], 1)[0]
    assert len(steps) == STEPS // EPOCH_STEPS
    assert slope * STEPS < 5, f"MB by step: {list(zip(steps, resident, strict=True))}"
