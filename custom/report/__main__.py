"""``python -m custom.report``: the page of a run, or of two."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import compare_report, write_report


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page and prints its path."""
    parser = argparse.ArgumentParser(
        prog="python -m custom.report", description="One page, report.html, of an evaluated run, or of two compared."
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="FOLDER | BASELINE.csv OURS.csv",
                        help="evaluation/<part> of a run, or the tables of cases of two")  # fmt: skip
    parser.add_argument("--title", help="of the page of one run; by default its folder and the part")
    parser.add_argument("--names", nargs=2, default=["supervised", "semi-supervised"], metavar=("BASELINE", "OURS"))
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page of two runs")
    told = parser.parse_args(arguments)
    if len(told.paths) > 2:
        parser.error("give one folder, or two tables of cases")
    try:
        if len(told.paths) == 1:
            print(_run(told.paths[0], told.title))
        else:
            print(compare_report(told.paths[0], told.paths[1], tuple(told.names), told.out))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")


def _run(folder: Path, title: str | None) -> Path:
    run = folder.resolve().parents[1]  # <output_dir>/evaluation/<part>
    return write_report(folder, title or f"{run.name}, {folder.resolve().name}", run / "metrics.csv")


if __name__ == "__main__":
    main()
