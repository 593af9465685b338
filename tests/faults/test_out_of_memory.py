"""A step that needs more memory than there is ends the run with its sizes, and the run can be resumed."""

from __future__ import annotations

import pytest
import tiny
import torch
from saying import raises
from test_resume import assert_same_state
from torch import nn

from custom.training import memory
from custom.training.memory import OutOfMemory

PETABYTES = 10**15  # float32 values: no machine has them, so torch's own allocator refuses


class Greedy(torch.autograd.Function):
    """Passes its input on; its gradient needs petabytes."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.empty(PETABYTES)


class Needy(nn.Module):
    """A loss that at one step of the run needs more memory than there is, in its value or in its gradient."""

    def __init__(self, loss, trainer, step, backward):
        super().__init__()
        self.loss, self.backward = loss, backward
        self.now = lambda: trainer.step == step

    def forward(self, *inputs):
        if self.now() and not self.backward:
            torch.empty(PETABYTES)
        value = self.loss(*inputs)
        return Greedy.apply(value) if self.now() and self.backward else value


def make(folder, step=None, backward=False, term="consistency", **settings):
    trainer = tiny.trainer("mean_teacher", folder, epochs=3, epoch_steps=3, **settings)
    if step is not None:
        setattr(trainer.method, term, Needy(getattr(trainer.method, term), trainer, step, backward))
    return trainer


SIZES = ("batch of 2 labelled + 2 unlabelled", "patch 16x16", "network input (4, 1, 16, 16)")
WHAT_TO_DO = ("Lower labelled_batch and unlabelled_batch", "higher accumulate", "patch")


@pytest.mark.fault("15", "a real allocation that fails, forward and backward")
@pytest.mark.parametrize(
    ("term", "backward", "under_way"),
    [
        ("supervised", False, "computing supervised, consistency"),
        ("consistency", False, "computing supervised, consistency"),
        ("consistency", True, "in the backward pass"),
    ],
)
def test_the_text_says_what_was_under_way_and_what_to_lower_and_a_resume_is_exact(tmp_path, term, backward, under_way):
    straight = make(tmp_path / "straight")
    straight.run()
    found = ("Out of memory", "4000000000000000 bytes", f"{under_way}, step 4", *SIZES)
    resume = ("checkpoint is intact", "--resume true", "numbers it was written with", "other numbers are a new run")
    with raises(OutOfMemory, *found, *WHAT_TO_DO, *resume):
        make(tmp_path / "short", 4, backward, term).run()
    resumed = make(tmp_path / "short", resume=True)
    resumed.run()
    assert_same_state(straight.state_dict(), resumed.state_dict())


@pytest.mark.fault("15", "a real allocation that fails, forward and backward")
def test_in_the_first_epoch_there_is_nothing_to_resume(tmp_path):
    trainer = make(tmp_path, 1)
    with pytest.raises(OutOfMemory, match="No epoch was finished yet: there is nothing to resume"):
        trainer.run()
    assert trainer.step == 1
    assert not list(tmp_path.glob("last_*"))


@pytest.mark.fault("15", "a real allocation that fails, forward and backward")
def test_nothing_is_tried_again(tmp_path):
    trainer, draws = make(tmp_path, 4), []
    draw = trainer.labelled.draw
    trainer.labelled.draw = lambda strong=False: draws.append(1) or draw(strong)
    with pytest.raises(OutOfMemory):
        trainer.run()
    assert len(draws) == 5


def test_without_unlabelled_patches_the_text_says_so():
    trainer = tiny.trainer("supervised", epochs=1, epoch_steps=1, weights={"supervised": 1.0})
    trainer.method.forward = lambda *_: torch.empty(PETABYTES)
    with pytest.raises(OutOfMemory, match=r"computing supervised, step 0: batch of 2 labelled \+ 0 unlabelled"):
        trainer.run()


@pytest.mark.fault("15", "the errors of CUDA, cuDNN, Metal, Python")
@pytest.mark.parametrize("raised", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory"),
    MemoryError(),
])  # fmt: skip
def test_what_the_allocators_raise_is_known(raised):
    with pytest.raises(OutOfMemory) as caught, memory.explained(lambda: "here."):
        raise raised
    assert str(caught.value) in ("Out of memory here.", "Out of memory (asked for 2.50 GiB) here.")
    assert caught.value.__cause__ is raised


def test_other_errors_pass_unchanged():
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 shapes"), memory.explained(lambda: "here."):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
