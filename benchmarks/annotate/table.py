"""What the loops say: Dice of the serving network against the number of labels, and the answer in one sentence."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom.files import write_atomically, write_text
from custom.markdown import table
from custom.report.palette import CLASS_COLOURS

Rows = Sequence[Mapping[str, Any]]

# what the unlabelled scans did, what the strategy did, what both did
PAIRS = (
    ("mean teacher, random", "supervised, random"),
    ("mean teacher, spread", "mean teacher, random"),
    ("mean teacher, informative", "mean teacher, random"),
    ("mean teacher, informative", "supervised, random"),
)


def write(out: Path, folder: Path, arms: Sequence[str]) -> str:
    """Collect the rows of all loops below ``out`` into ``folder``: rows, table, plot; returns the text.

    Raises:
        FileNotFoundError: there is no loop.
    """
    files = sorted(out.glob("*/rows.jsonl"))
    if not files:
        raise FileNotFoundError(
            f"{out}: no */rows.jsonl. Run the loops first: python -m benchmarks.annotate run --out {out}"
        )
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    arms = [arm for arm in arms if any(row["arm"] == arm for row in rows)]
    text = markdown(rows, arms)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "annotate.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_text(folder / "annotate.md", text)
    draw(rows, arms, folder / "annotate.png")
    return text


def markdown(rows: Rows, arms: Sequence[str]) -> str:
    """The table, and under it the means over all label counts and the answer."""
    labels = sorted({row["labels"] for row in rows})
    head = ["labels", *arms]
    cells = [[str(n), *(_cell(_at(rows, arm, n)) for arm in arms)] for n in labels]
    cells.append(["mean", *(_cell(list(means(rows, arm).values())) for arm in arms)])
    kept = [f"{arm}: {_rejected(rows, arm)} of {sum(row['arm'] == arm for row in rows)}" for arm in arms]
    return "\n".join([
        "Dice of the serving network on held-out scans against the number of labels; mean and standard deviation over "
        f"{len({row['seed'] for row in rows})} seeds",
        "",
        table(head, cells),
        "",
        "Trainings whose weights were worse on the validation scans and did not serve: " + "; ".join(kept) + ".",
        "",
        answer(rows, arms),
        "",
    ])  # fmt: skip


def means(rows: Rows, arm: str) -> dict[int, float]:
    """Mean over all numbers of labels (the area under the curve), by seed."""
    seeds = sorted({row["seed"] for row in rows if row["arm"] == arm})
    return {s: statistics.fmean(r["dice"] for r in rows if r["arm"] == arm and r["seed"] == s) for s in seeds}


def answer(rows: Rows, arms: Sequence[str]) -> str:
    """One sentence: what the unlabelled scans did, what the strategy did, what both did; seed by seed."""
    last = max(row["labels"] for row in rows)
    parts = []
    for ours, baseline in PAIRS:
        if ours not in arms or baseline not in arms:
            continue
        over_all, at_last = (_differences(rows, ours, baseline, n) for n in (None, last))
        if over_all:
            parts.append(
                f"`{ours}` against `{baseline}`: {_judged(over_all)} over all numbers of labels ({_listed(over_all)} Dice "
                f"points by seed) and {_judged(at_last)} with {last} labels ({_listed(at_last)})"
            )
    return "; ".join(parts) + "." if parts else "There is nothing to compare yet."


def _differences(rows: Rows, ours: str, baseline: str, labels: int | None) -> list[float]:
    """Differences in Dice points, by seed; the mean over all numbers of labels, or with ``labels``."""
    chosen = [row for row in rows if labels in (None, row["labels"])]
    first, second = means(chosen, baseline), means(chosen, ours)
    return [100 * (second[seed] - first[seed]) for seed in sorted(first.keys() & second.keys())]


def _listed(found: Sequence[float]) -> str:
    return ", ".join(f"{value:+.1f}" for value in found)


def _judged(found: Sequence[float]) -> str:
    """Three seeds show a sign, not a significance."""
    if len(found) > 1 and min(found) > 0:
        return "better with every seed"
    if len(found) > 1 and max(found) < 0:
        return "worse with every seed"
    return "no difference that holds over the seeds"


def draw(rows: Rows, arms: Sequence[str], png: Path) -> None:
    """The mean over seeds as a line, each seed as a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.add_subplot()
    labels = sorted({row["labels"] for row in rows})
    colours = (CLASS_COLOURS[-1], CLASS_COLOURS[1], CLASS_COLOURS[4], CLASS_COLOURS[0])
    for index, arm in enumerate(arms):
        colour, shift = colours[index % len(colours)], 0.06 * (index - (len(arms) - 1) / 2)
        own = [row for row in rows if row["arm"] == arm]
        axis.plot(
            [r["labels"] + shift for r in own], [r["dice"] for r in own], ".", color=colour, alpha=0.45, markersize=5
        )
        known = [n for n in labels if _at(rows, arm, n)]
        axis.plot(known, [statistics.fmean(_at(rows, arm, n)) for n in known], color=colour, label=arm, linewidth=2)
    axis.set(xlabel="scans labelled", ylabel="Dice on held-out scans", xticks=labels)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")
    write_atomically(png, lambda file: figure.savefig(file, format="png", dpi=150, metadata={"Software": None}))


def _at(rows: Rows, arm: str, labels: int) -> list[float]:
    return [row["dice"] for row in rows if row["arm"] == arm and row["labels"] == labels]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def _rejected(rows: Rows, arm: str) -> int:
    return sum(row["arm"] == arm and not row["replaced"] for row in rows)
