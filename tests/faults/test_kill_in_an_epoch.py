"""A training process killed by SIGKILL in the middle of an epoch goes on to the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_resume import assert_same_state

CHILD = """
import os, signal, sys, threading
sys.path[:0] = [{root!r}, {tests!r}]
import torch, tiny
torch.set_num_threads(1)
trainer = tiny.trainer({which!r}, __import__("pathlib").Path({folder!r}), epochs=4, resume={resume}, **{settings!r})
step = trainer.method.after_step
def after_step(progress):
    if progress.step == {kill}: os.kill(os.getpid(), signal.SIGKILL)
    if progress.step == {rest}: threading.Event().wait(120)
    step(progress)
trainer.method.after_step = after_step
epochs = []
trainer.add_event_handler(__import__("ignite.engine").engine.Events.EPOCH_STARTED, lambda: epochs.append(trainer.state.epoch))
trainer.run()
print(epochs)
"""


def start(
    folder: Path, which: str, settings: dict, resume: bool = False, kill: int = -1, rest: int = -1
) -> subprocess.Popen:
    """A training in a process of its own, which kills itself at one step, or rests at one until it is killed."""
    code = CHILD.format(root=str(ROOT), tests=str(ROOT / "tests"), folder=str(folder), which=which, settings=settings,
                        resume=resume, kill=kill, rest=rest)  # fmt: skip
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.fault("2", "SIGKILL in the third of four epochs")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "settings"),
    [("mean_teacher", {}), ("supervised", {"amp": "fp16", "accumulate": 2})],
    ids=["mean teacher", "supervised, fp16, accumulation"],
)
def test_sigkill_in_an_epoch_and_resume_is_exact(tmp_path, which, settings):
    assert start(tmp_path / "straight", which, settings).wait(300) == 0
    killed = start(tmp_path / "killed", which, settings, kill=7)  # the second of the third epoch's three steps
    assert killed.wait(300) == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "killed").glob("last_*")) == ["last_0001.pt", "last_0002.pt"]
    resumed = start(tmp_path / "killed", which, settings, resume=True)
    assert resumed.communicate(timeout=300)[0].strip() == "[3, 4]"
    assert resumed.returncode == 0
    a, b = (torch.load(tmp_path / f / "last_0004.pt", weights_only=True)["state"] for f in ("straight", "killed"))
    assert_same_state(a, b)
