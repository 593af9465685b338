"""The benchmark's rounds as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from custom import markdown
from custom.report.palette import BLUE, DARK_GREY, GREEN, GREY, ORANGE, PURPLE, SKY, YELLOW
from custom.report.plots import save_png

from .phases import PHASES

EPOCH, VALIDATED = 50, 500  # steps that one logging, and one validation, of a run go with
COLOURS = (GREY, BLUE, SKY, PURPLE, GREEN, ORANGE, DARK_GREY, YELLOW)


@dataclass
class Measured:
    """A turn of one candidate.

    Args:
        peak: bytes of memory at most, so far.
        phases: seconds of the turn by phase.
        steps: of the turn.
        logged: steps that its logging goes with: of ours once an epoch of a run, of the peer's all that were timed.
        flops: of one step.
        format: of what is multiplied.
        rate: FLOP a second, of a candidate that is the floor's.
    """

    peak: float
    phases: Mapping[str, float] = field(default_factory=dict)
    steps: int = 1
    flops: float = 0.0
    format: str = ""
    rate: float = 0.0
    logged: int = EPOCH

    def step(self, phase: str) -> float:
        """Milliseconds a step; what comes once an epoch, or a validation, is shared out among a run's steps."""
        every = {"logging": self.logged, "validation": VALIDATED}.get(phase, self.steps)
        return 1000 * self.phases.get(phase, 0.0) / every


def milliseconds(rounds: Sequence[Measured], phase: str = "") -> float:
    """Median over the rounds that have the phase; without one of a step with its share of everything."""
    if not phase:
        return sum(milliseconds(rounds, one) for one in PHASES)
    return median([one.step(phase) for one in rounds if phase in one.phases] or [0.0])


def floor(found: Mapping[str, Sequence[Measured]], name: str) -> float:
    """Milliseconds that a candidate's multiplications take at the best rate of this run in its number format."""
    kind = found[name][0].format.removeprefix("torch.")
    rates = found.get(f"convolution {kind}") or found["convolution float32"]
    return 1000 * found[name][0].flops / max(one.rate for one in rates)


def page(
    found: Mapping[str, Sequence[Measured]], dimensions: int, shape: Mapping[str, Any], machine: str, command: str
) -> str:
    """Markdown."""
    candidates = [name for name, rounds in found.items() if rounds and rounds[0].phases]
    rows = []
    for name in candidates:
        rounds = found[name]
        whole = milliseconds(rounds)
        peer = found.get(f"peer-style {name}")
        rows.append(
            [name, *[f"{milliseconds(rounds, phase):.0f}" for phase in PHASES[:6]],
             *[f"{100 * milliseconds(rounds, phase) / whole:.1f} %" for phase in PHASES[6:]], f"**{whole:.0f}**",
             f"{whole / floor(found, name):.2f}" if rounds[0].flops else "",
             f"{milliseconds(peer) / whole:.2f}" if peer else "", f"{rounds[-1].peak / 1e9:.2f}"]
        )  # fmt: skip
    heads = ["", *PHASES[:6], *PHASES[6:], "step, ms", "times the floor", "faster than peer-style", "peak, GB"]
    rates = [
        f"{name.removeprefix('convolution ')}: {max(one.rate for one in rounds) / 1e9:.0f} GFLOP/s"
        for name, rounds in found.items()
        if rounds and rounds[0].rate
    ]
    by = " x ".join(map(str, shape["patch"]))
    parts = [
        f"# What a training step costs, {dimensions}D",
        f"Milliseconds, medians of rounds in turns. {shape['batch']} labelled and as many unlabelled patches of {by}, U-Net of "
        f"widths {', '.join(map(str, shape['widths']))} (task_affinity and coarse_refined their own networks; bcp in its second "
        f"stage, contrastive_mutual, with a network a modality, in its first); {machine}.",
        f"    {command}",
        markdown.table(heads, rows, texts=1),
        f"Best convolution of this run, the floor: {'; '.join(rates)}. Logging is a run's, once in {EPOCH} steps with its "
        f"checkpoint; validation once in {VALIDATED} steps. Peer-style: `benchmarks/speed/peer.py`, {_epoch(found)} steps an "
        "epoch, at whose start its workers start; its teacher sees the unlabelled patches alone, ours the labelled ones too.",
    ]
    return "\n\n".join(parts) + "\n"


def _epoch(found: Mapping[str, Sequence[Measured]]) -> str:
    return ", ".join(
        sorted({str(one.steps) for name, rounds in found.items() if name.startswith("peer-style") for one in rounds})
    )


def plot(found: Mapping[str, Sequence[Measured]], png: Path) -> None:
    """Bars by phase, and the floor as a line in each."""
    from matplotlib.figure import Figure

    names = [name for name, rounds in found.items() if rounds and rounds[0].phases][::-1]
    figure = Figure(figsize=(9, 0.8 + 0.42 * len(names)), dpi=110, layout="constrained")
    axis = figure.subplots()
    left = [0.0] * len(names)
    for phase, colour in zip(PHASES, COLOURS, strict=True):
        widths = [milliseconds(found[name], phase) for name in names]
        axis.barh(names, widths, left=left, color=colour, label=phase, height=0.7)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, name in enumerate(names):
        if found[name][0].flops:
            axis.plot([floor(found, name)] * 2, [row - 0.42, row + 0.42], color="black", linewidth=2)
    axis.plot([], [], color="black", linewidth=2, label="floor")
    axis.set_xlabel("ms a step")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    save_png(figure, png)
