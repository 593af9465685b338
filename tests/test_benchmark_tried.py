"""The benchmark of what was tried: every change computes the same, and leaves the network as it was; no time is asserted."""

from __future__ import annotations

import pytest
import torch

from benchmarks import tried
from custom.networks import UNet

OTHER = ("dropout from 16 random bits", "torch.compile")  # which has other numbers; which takes minutes


def outcome(change: str, network: UNet) -> list[torch.Tensor]:
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with tried.TRIED[change](network) as changed:
        logits = changed(image.to(memory_format=torch.channels_last))
    return [logits, *torch.autograd.grad(logits.square().sum(), list(network.parameters()))]


@pytest.mark.parametrize("change", [name for name in tried.TRIED if name not in OTHER])
def test_a_change_computes_the_same_and_is_undone(change):
    torch.manual_seed(0)
    network = UNet(2, 1, 3, widths=(4, 8, 16), dropout=0.0, norm="instance").to(memory_format=torch.channels_last)
    before = outcome("as it is", network)
    for ours, theirs in zip(outcome(change, network), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(outcome("as it is", network), before, strict=True):
        assert torch.equal(ours, theirs)


def test_dropout_from_random_bits_loses_its_share_and_keeps_the_mean():
    layer = tried._CheapDropout(0.3)
    torch.manual_seed(0)
    found = layer(torch.ones(4, 8, 50, 50).to(memory_format=torch.channels_last))
    assert (found == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert found.unique().tolist() == pytest.approx([0, 1 / 0.7])


def test_dropout_from_random_bits_takes_the_place_of_each_dropout(monkeypatch):
    rates = []
    monkeypatch.setattr(tried._CheapDropout, "forward", lambda self, x: rates.append(self.rate) or x)
    outcome("dropout from 16 random bits", UNet(2, 1, 3, widths=(4, 8, 16), dropout=(0.0, 0.1, 0.2)))
    assert rates == [0.1, 0.2]


def test_the_page_compares_with_the_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        tried, "measure", lambda names, *_: dict(zip(names, [[0.2, 0.1, 0.3], [0.1, 0.05, 0.1]], strict=True))
    )
    words = [
        "--amp",
        "off",
        "--threads",
        "1",
        "--changes",
        "as it is",
        "denormal numbers flushed",
        "--out",
        str(tmp_path),
    ]
    assert tried.main(words) == 0
    text = (tmp_path / "tried_float32.md").read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")][2:]
    assert rows == [["as it is", "100", "+0 %", "200"], ["denormal numbers flushed", "50", "-50 %", "100"]]
    assert "--changes 'as it is'" in text


def test_a_round_measures_each(monkeypatch):
    names = [name for name in tried.TRIED if name != "torch.compile"]
    found = tried.measure(names, 2, None, side=16)
    assert {name: len(seconds) for name, seconds in found.items()} == dict.fromkeys(names, 2)
