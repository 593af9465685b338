"""The benchmark of a step: what it counts, how it sums up; no time is asserted."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from torch import nn

from benchmarks.speed import peer
from benchmarks.speed.__main__ import _formats, groups
from benchmarks.speed.phases import PHASES, Clock
from benchmarks.speed.table import EPOCH, VALIDATED, Measured, floor, milliseconds, page, plot
from benchmarks.speed.turns import Worker
from custom.stream.mixing import CutMix

SHAPE = {"batch": 8, "patch": [160, 160], "widths": [16, 32]}


def ours(data: float, **more: float) -> Measured:
    return Measured(1e9, {"data": data, "backward": 0.3, **more}, steps=3, flops=2e9, format="torch.float32")


FOUND = {
    "supervised": [ours(0.03, logging=5.0), ours(0.06, validation=50.0), ours(0.3, logging=5.0)],
    "peer-style supervised": [Measured(2e9, {"data": 0.6, "backward": 0.6}, 3, format="torch.float32")],
    "convolution float32": [Measured(1e9, rate=50e9), Measured(1e9, rate=100e9)],
}


class Ticks(Clock):
    """A clock that moves by one second at each reading."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.time = 0.0

    def now(self) -> float:
        self.time += 1
        return self.time


def test_a_forward_pass_in_a_step_counts_once_and_by_whether_a_gradient_is_kept():
    clock, network = Ticks(), nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    clock.watch_networks(network, network[1])
    x = torch.zeros(1, 2)
    network(x)  # of a validation
    clock.in_step = True
    network(x)
    network[1](x)
    with torch.no_grad():
        network(x)
    assert clock.take() == {"student forward": 2.0, "teacher forward": 1.0}
    assert clock.take() == {}


def test_a_timed_function_returns_what_it_returns_and_counts_where_it_fails():
    clock = Ticks()
    assert clock.timed("data", lambda x: x + 1)(1) == 2
    with pytest.raises(ZeroDivisionError):
        clock.timed("data", lambda: 1 / 0)()
    assert clock.take() == {"data": 2.0}


def test_a_step_is_the_sum_of_medians_with_its_share_of_what_comes_once_in_many():
    rounds = FOUND["supervised"]
    assert milliseconds(rounds, "data") == pytest.approx(20)
    assert milliseconds(rounds, "logging") == pytest.approx(5000 / EPOCH)
    assert milliseconds(rounds, "validation") == pytest.approx(50_000 / VALIDATED)
    assert milliseconds(rounds, "losses") == 0
    assert milliseconds(rounds) == pytest.approx(20 + 100 + 100 + 100)


def test_the_floor_is_the_best_rate_of_the_run_in_the_step_s_number_format():
    assert floor(FOUND, "supervised") == pytest.approx(20)
    both = {**FOUND, "convolution bfloat16": [Measured(1, rate=1e12)]}
    both["supervised"] = [Measured(1, {"data": 1}, 1, 2e9, "torch.bfloat16")]
    assert floor(both, "supervised") == pytest.approx(2)
    half = {**both, "convolution float16": [Measured(1, rate=4e12)]}
    half["supervised"] = [Measured(1, {"data": 1}, 1, 2e9, "torch.float16")]
    assert floor(half, "supervised") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("amp", "formats"), [("off", ["float32"]), ("bf16", ["float32", "bfloat16"]), ("fp16", ["float32", "float16"])]
)
def test_the_floor_is_measured_in_the_format_of_the_steps(amp, formats):
    assert _formats(amp) == formats


def test_the_page_compares_with_floor_and_peer_and_names_its_command(tmp_path):
    text = page(FOUND, 2, SHAPE, "2 threads", "python -m benchmarks.speed")
    row = next(line for line in text.splitlines() if line.startswith("| supervised"))
    assert re.sub(r"\s+", "", row).endswith("|**320**|16.00|1.25|1.00|")
    assert "    python -m benchmarks.speed\n" in text
    assert "float32: 100 GFLOP/s" in text
    plot(FOUND, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert set(PHASES) >= {"data", "logging", "validation"}


def test_the_logging_of_the_peer_is_that_of_its_steps():
    assert milliseconds([Measured(1, {"logging": 0.33}, 11, logged=11)], "logging") == pytest.approx(30)


# the peer-style loop has the numbers of our mean teacher


def parts(name: str) -> Any:
    text = (ROOT / "bundles/mean_teacher/configs/train.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["train"][name]


@pytest.mark.parametrize(("law", "name"), [(peer.WEAK, "augmentation"), (peer.STRONG, "strong")])
def test_the_peer_draws_intensities_by_our_law(law, name):
    ours = {part["_target_"].rpartition(".")[2]: part for part in parts(name)}
    assert (law.often, *law.gamma) == tuple(ours["Gamma"][key] for key in ("prob", "low", "high"))
    for part in ("Contrast", "Brightness"):
        assert (law.often, *law.factor) == tuple(ours[part][key] for key in ("prob", "low", "high"))
    assert (law.noise, peer.NOISE) == (ours["Noise"]["prob"], ours["Noise"]["std"])
    assert law.blur == ours.get("Blur", {"prob": 0})["prob"]
    if law.blur:
        assert (ours["Blur"]["low"], ours["Blur"]["high"]) == peer.SIGMA


def test_the_peer_changes_as_many_patches_as_we_do_and_by_as_much():
    rng, patch = np.random.default_rng(0), np.full((8, 8), 0.25)
    seen = [peer.intensities(patch, rng, replace(peer.WEAK, often=0.0, noise=0.0)) for _ in range(50)]
    assert all((image == 0.25).all() for image in seen)
    gammas = [peer.intensities(patch, rng, peer.Law(1.0, (0.7, 1.5), (1, 1), 0, 0)) for _ in range(400)]
    found = np.log([image[0, 0] for image in gammas]) / np.log(0.25)
    assert 0.7 <= found.min() < 0.75
    assert 1.4 < found.max() <= 1.5
    assert np.log(found).mean() == pytest.approx(np.log(0.7 * 1.5) / 2, abs=0.05)
    noisy = np.random.default_rng(1).random((8, 8))
    blurred = [not np.array_equal(peer.intensities(noisy, rng, peer.Law(0, (1, 1), (1, 1), 0, 0.5)), noisy.astype(np.float32))
               for _ in range(400)]  # fmt: skip
    assert np.mean(blurred) == pytest.approx(0.5, abs=0.08)


def test_the_peer_mixes_a_box_a_sample_as_cutmix_does():
    mix, rng = CutMix(parts("mixing")["prob"]), np.random.default_rng(0)
    assert (mix.prob, mix.low, mix.high, mix.aspect) == (peer.MIXED, *peer.SHARE, peer.ASPECT)
    drawn = [box for _ in range(100) for box in peer.boxes((40, 40), 8, rng)]
    share = np.mean([box is not None for box in drawn])
    areas = [np.prod([part.stop - part.start for part in box]) / 1600 for box in drawn if box]
    masks = [
        mix.draw(torch.ones(8, 1, dtype=torch.bool), (40, 40), torch.Generator().manual_seed(n)).mask
        for n in range(100)
    ]
    wanted = torch.cat(masks).float().mean(dim=(1, 2, 3))
    assert share == pytest.approx(float((wanted > 0).float().mean()), abs=0.06)
    assert np.mean(areas) == pytest.approx(float(wanted[wanted > 0].mean()), abs=0.03)
    images = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    mixed = peer.mix(images, [None, (slice(0, 1), slice(0, 2)), None])
    assert mixed[:, 0].tolist() == [[[0, 0], [0, 0]], [[0, 0], [1, 1]], [[2, 2], [2, 2]]]


def test_the_peer_has_our_optimiser():
    text = (ROOT / "bundles/mean_teacher/configs/train.yaml").read_text(encoding="utf-8")
    ours = yaml.safe_load(text)["train"]["optimizer"]
    shape = {"patch": [16, 16], "widths": [4, 8], "dropout": [0.0, 0.0], "norm": "batch", "teacher": True}
    (group,) = peer.Loop(shape).optimizer.param_groups
    assert {name: group[name] for name in ("momentum", "nesterov", "weight_decay")} == {
        name: ours[name] for name in ("momentum", "nesterov", "weight_decay")
    }


def test_a_worker_that_ends_is_told_with_its_log(tmp_path):
    worker = Worker("floor", {"dimensions": 4, "format": "float32"}, 1, tmp_path / "floor.log")
    with pytest.raises(RuntimeError, match=r"floor ended:\n(.|\n)*KeyError: 4"):
        worker.turn()
    worker.end()


def test_so_many_bundles_take_turns_at_a_time_and_supervised_is_among_the_first():
    assert groups(["bcp", "cps", "supervised", "urpc", "unimatch"], 2) == [
        ["supervised", "bcp"], ["cps", "urpc"], ["unimatch"],
    ]  # fmt: skip
