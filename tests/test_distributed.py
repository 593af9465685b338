"""Two processes over Gloo: equal parameters, averaged buffers, one writer, an exact resume."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from ignite.engine import Events
from test_resume import assert_same_state
from test_trainer import ALL, Toy

from custom import distributed
from custom.trainer import DualStreamTrainer


def make(which: str, folder: Path, epochs: int, resume: bool) -> DualStreamTrainer:
    if which == "toy":  # a branch rests in the first half: unused parameters under DDP
        return tiny.trainer(Toy(), folder, epochs=epochs, resume=resume,
                            weights={**ALL, "second": {"value": 1, "from": 0.5}, "unlabelled": 0})  # fmt: skip
    return tiny.trainer(which, folder, epochs=epochs, resume=resume, accumulate=2)


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
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(worker, args=(port, str(folder)), nprocs=2, join=True)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)], folder


@pytest.mark.parametrize("which", ["mean_teacher", "toy"])
def test_parameters_and_buffers_are_equal_on_all_ranks(ranks, which):
    """Checked after an epoch's end, where buffers are averaged."""
    (first, second), _ = ranks
    assert_same_state(first[which], second[which])


def test_buffers_are_averaged_and_counters_left_alone(ranks):
    (first, second), _ = ranks
    assert first["averaged"] == second["averaged"] == [1.5, 7]


def test_ranks_draw_different_batches(ranks):
    """After one more forward pass the BatchNorm statistics of the ranks are apart again."""
    (first, second), _ = ranks
    assert first["apart"]
    assert not torch.equal(first["statistics"], second["statistics"])


def test_a_run_of_two_ranks_resumes_exactly(ranks):
    (first, second), _ = ranks
    assert first["trained after the resume"] == second["trained after the resume"] == [3, 4]
    assert_same_state(first["resumed"], first["mean_teacher"])
    assert_same_state(second["resumed"], first["mean_teacher"])


def test_one_rank_writes(ranks):
    _, folder = ranks
    assert sorted(p.name for p in (folder / "mean_teacher").glob("last_*")) == ["last_0003.pt", "last_0004.pt"]
