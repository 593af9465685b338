"""Two processes over Gloo: equal parameters, averaged buffers, one writer, an exact resume."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from conftest import ROOT
from ignite.engine import Events
from ports import free_port
from saying import says
from test_resume import assert_same_state
from test_trainer import ALL, Toy
from torchrun import one_machine

from custom import distributed
from custom.cohort.errors import CohortError
from custom.errors import UserError
from custom.stream.stream import Stream
from custom.training.guard import Guard, NotFinite
from custom.training.statistics import CleanStatistics
from custom.training.trainer import DualStreamTrainer


def make(which: str, folder: Path, epochs: int, resume: bool) -> DualStreamTrainer:
    if which == "toy":  # a branch rests in the first half: unused parameters under DDP
        return tiny.trainer(Toy(), folder, epochs=epochs, resume=resume,
                            weights={**ALL, "second": {"value": 1, "from": 0.5}, "unlabelled": 0})  # fmt: skip
    return tiny.trainer(which, folder, epochs=epochs, resume=resume, accumulate=2)


class Refusing:
    """A check of the scans that finds faults, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, parts: Mapping[str, Sequence]) -> None:
        self.asked += 1
        raise CohortError(f"{', '.join(parts)}: 2 faults")


def judged(folder: Path) -> tuple[int, str]:
    check = Refusing()
    with pytest.raises(UserError) as caught:
        tiny.trainer("mean_teacher", folder, check=check).run()
    return check.asked, f"{caught.typename}: {caught.value}"


def guarded(rank: int) -> tuple[float, str]:
    """A step whose term is NaN on rank 1 alone, as on a GPU: the weight after it, and what the guard says then."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], 0.1, fused=True)
    guard, empty = Guard(optimizer, interval=100), tiny.trainer("supervised").labelled.empty()
    guard.check({"supervised": torch.tensor(float("nan") if rank else 1.0)}, 1, empty, empty, on_device=True)
    weight.grad = torch.full((1,), float("nan"))  # the mean over ranks, which DDP gives to both
    optimizer.step()
    with pytest.raises(NotFinite) as caught:
        guard.read(1)
    return weight.item(), str(caught.value)


def worker(rank: int, port: int, out: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    folder = Path(out)
    found = {}
    for which in ("mean_teacher", "toy"):
        straight = make(which, folder / which, 4, False)
        straight.run()
        found[which] = copy.deepcopy(straight.state_dict())
    buffers_before = straight.method.one.down[0][1].running_mean.clone()
    straight.network(straight.labelled.draw(), straight.labelled.empty(), straight.progress())
    found["apart"] = not torch.equal(buffers_before, straight.method.one.down[0][1].running_mean)
    short = make("mean_teacher", folder / "resumed", 4, False)
    short.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda: short.terminate())
    short.run()
    resumed = make("mean_teacher", folder / "resumed", 4, True)
    trained = []
    resumed.add_event_handler(Events.EPOCH_STARTED, lambda: trained.append(resumed.state.epoch))
    resumed.run()
    found["trained after the resume"] = trained
    found["resumed"] = copy.deepcopy(resumed.state_dict())
    norm = torch.nn.BatchNorm2d(1)
    norm.running_mean.fill_(rank + 1.0)
    norm.num_batches_tracked.fill_(7)
    distributed.average_buffers(norm)
    found["averaged"] = [norm.running_mean.item(), norm.num_batches_tracked.item()]
    found["statistics"] = straight.method.one.down[0][1].running_mean.clone()
    clean = Stream(tiny.bank("labelled", 0, 3), 2, (8, 8), name="statistics", rank=0)
    with CleanStatistics(clean, batches=2).applied({"served": straight.method.one}):
        found["served"] = straight.method.one.down[0][1].running_mean.clone()
    found["judged"] = judged(folder / "judged")
    found["guarded"] = guarded(rank)
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with contextlib.suppress(RuntimeError):  # set before, and running
        multiprocessing.set_forkserver_preload(["torch", "monai.engines", "monai.bundle", "custom.training.trainer"])
    multiprocessing.start_processes(worker, (free_port(), str(folder)), 2, start_method="forkserver")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)], folder


@pytest.mark.parametrize("which", ["mean_teacher", "toy"])
@pytest.mark.fault("14", "parameters and buffers compared between ranks")
def test_parameters_and_buffers_are_equal_on_all_ranks(ranks, which):
    """Checked after an epoch's end, where buffers are averaged."""
    (first, second), _ = ranks
    assert_same_state(first[which], second[which])


def test_buffers_are_averaged_and_counters_left_alone(ranks):
    (first, second), _ = ranks
    assert first["averaged"] == second["averaged"] == [1.5, 7]


def test_ranks_draw_different_batches(ranks):
    """The BatchNorm statistics of the ranks differ again after one more forward pass."""
    (first, second), _ = ranks
    assert first["apart"]
    assert not torch.equal(first["statistics"], second["statistics"])


def test_what_ranks_validate_and_write_has_the_same_statistics(ranks):
    (first, second), _ = ranks
    assert torch.equal(first["served"], second["served"])
    assert not torch.equal(first["served"], first["statistics"])


@pytest.mark.fault("4", "NaN on one rank of two")
def test_a_term_that_is_nan_on_one_rank_changes_no_weight_on_any(ranks):
    (first, second), _ = ranks
    assert first["guarded"] == second["guarded"]
    weight, said = first["guarded"]
    assert weight == 1.0
    says(said, "not finite", "the 100 steps before step 2", "No weight was changed")


@pytest.mark.fault("14", "two ranks stopped and resumed")
def test_a_run_of_two_ranks_resumes_exactly(ranks):
    (first, second), _ = ranks
    assert first["trained after the resume"] == second["trained after the resume"] == [3, 4]
    assert_same_state(first["resumed"], first["mean_teacher"])
    assert_same_state(second["resumed"], first["mean_teacher"])


@pytest.mark.fault("14", "two ranks stopped and resumed")
def test_one_rank_writes(ranks):
    _, folder = ranks
    assert sorted(p.name for p in (folder / "mean_teacher").glob("last_*")) == ["last_0003.pt", "last_0004.pt"]


def test_rank_0_judges_the_scans_and_every_rank_ends_with_its_text(ranks):
    (first, second), folder = ranks
    assert first["judged"] == (1, "CohortError: labelled, unlabelled, validation: 2 faults")
    assert second["judged"] == (0, "UserError: rank 0: labelled, unlabelled, validation: 2 faults")
    assert not (folder / "judged").exists(), "nothing is touched"


# through torchrun

WAITS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import time
from datetime import timedelta
import torch.distributed.distributed_c10d as c10d
c10d.default_pg_timeout = timedelta(seconds=2)  # of Gloo half an hour, of NCCL ten minutes
from custom import distributed
distributed.start()
slow = lambda: time.sleep(5)
distributed.by_rank_0(slow)
slow() if distributed.rank() else None
distributed.barrier(patient=True)
open(f"rank{{distributed.rank()}}", "w").write("began")
distributed.stop()
"""


def test_a_start_may_take_longer_than_a_step_is_waited_for(tmp_path):
    """Rank 0 checks the scans, then rank 1 has more to read."""
    (tmp_path / "waits.py").write_text(WAITS)
    done = subprocess.run([*one_machine(2, 0), "waits.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["began"] * 2


TORN = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from custom import distributed
first, rank = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0", int(os.environ["RANK"])
if not first:  # the other rank looks for the address of rank 0 before it is there
    open("ready", "r" if rank == 0 else "w").close()
distributed.start()
if first:
    os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else signal.pause()
found = torch.ones(())
torch.distributed.all_reduce(found)
open(f"rank{{rank}}", "w").write(f"{{int(found)}} ranks met")
distributed.stop()
"""


@pytest.mark.fault("14", "the group restarted, its old addresses still in torchrun's store")
def test_a_restarted_group_does_not_look_for_processes_that_are_gone(tmp_path):
    (tmp_path / "torn.py").write_text(TORN)
    os.mkfifo(tmp_path / "ready")  # opening one end waits for the other
    with subprocess.Popen([*one_machine(2, 1), "torn.py"], cwd=tmp_path) as group:
        try:
            assert group.wait(120) == 0
        finally:
            group.terminate()  # and with it its processes, which are not children of this one
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["2 ranks met"] * 2
