"""Two rows of the comparison against each other, paired by case and seed; the table itself pairs with one baseline alone.

    python -m benchmarks.compare.pairs acdc:3 mean_teacher low_confidence --seeds 0 1 2

The second minus the first in mean Dice of the final weights, points, with its 95 % interval over patients.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from custom.errors import UserError, show_plainly
from custom.evaluation.compare import Difference, paired_difference

from .results import with_nan

ROWS = Path(__file__).resolve().parents[1] / "results/compare"


def difference(rows: Path, size: str, task: str, names: tuple[str, str], seeds: Sequence[int]) -> Difference:
    """The second row minus the first, paired by case and seed.

    Raises:
        UserError: a seed of one of them has no row.
    """
    before, ours = ([case for seed in seeds for case in _cases(rows, size, task, name, seed)] for name in names)
    return paired_difference(ours, before)


def _cases(rows: Path, size: str, task: str, name: str, seed: int) -> list[dict[str, Any]]:
    file = rows / f"{size}_{task.replace(':', '_')}_{name}_seed{seed}.json"
    if not file.is_file():
        raise UserError(
            f"{file} does not exist: there is no row of {name} with seed {seed} on {task}. Leave the seed out"
        )
    cases = with_nan(json.loads(file.read_text(encoding="utf-8"))["cases"]["model_final"])
    return [{**case, "case": f"{case['case']}, seed {seed}"} for case in cases]


def main(arguments: Sequence[str] | None = None) -> int:
    show_plainly()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare.pairs", description=__doc__.splitlines()[0])
    parser.add_argument("task", help="NAME:LABELS")
    parser.add_argument("names", nargs=2, metavar="NAME", help="rows; the first is the baseline")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--size", default="screen")
    parser.add_argument("--rows", type=Path, default=ROWS)
    asked = parser.parse_args(arguments)
    found = difference(asked.rows, asked.size, asked.task, tuple(asked.names), asked.seeds)
    low, mean, high = (100 * value for value in (found.low, found.mean, found.high))
    print(f"{asked.names[1]} minus {asked.names[0]}: {mean:+.2f} points ({low:.1f} to {high:.1f}), p {found.p:.4f}, "
          f"{found.patients} patients, {len(asked.seeds)} seed(s)")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
