"""``python -m custom.report``: the page of a run; or the verdict of two, and a page that shows them case by case."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.case_table import distance_unit, read_cases
from ..evaluation.compare import comparison
from ..files import typed
from . import compare_report, write_report
from .unlabelled import notes


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page of a run and prints its path; of two tables of cases it prints the verdict."""
    parser = argparse.ArgumentParser(
        prog="python -m custom.report",
        description="The page, report.html, of an evaluated run; or the honest verdict of two, the baseline first.",
    )
    parser.add_argument("paths", type=typed, nargs="+", metavar="FOLDER | BASELINE.csv OURS.csv",
                        help="evaluation/<part> of a run, or the tables of cases of two")  # fmt: skip
    parser.add_argument("--title", help="of the page of one run; by default its folder and the part")
    parser.add_argument("--names", nargs=2, default=["the first", "the second"], metavar=("BASELINE", "OURS"))
    parser.add_argument("--metric", default="dice_mean", help="column that is compared (default: %(default)s)")
    parser.add_argument("--html", type=typed, metavar="PAGE", help="of two runs, also a page case by case")
    options = parser.parse_args(arguments)
    if len(options.paths) > 2:
        parser.error("give one folder, or two tables of cases")
    if options.names[0] == options.names[1]:
        parser.error("--names needs two different names")
    try:
        if len(options.paths) == 1:
            print(_page(options.paths[0], options.title))
        else:
            baseline, ours = options.paths
            _compare(baseline, ours, (options.names[0], options.names[1]), options.metric, options.html)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")


def _page(folder: Path, title: str | None) -> Path:
    run = folder.resolve().parents[1]  # <output_dir>/evaluation/<part>
    return write_report(folder, title or f"{run.name}, {folder.resolve().name}", run / "metrics.csv")


def _compare(baseline: Path, ours: Path, names: tuple[str, str], metric: str, html: Path | None) -> None:
    from ..evaluation.same_settings import only_unlabelled_differs  # brings MONAI, which importing the report does not

    unlabelled = only_unlabelled_differs(baseline, ours)
    tables = read_cases(baseline), read_cases(ours)
    print(comparison(*tables, names, metric, distance_unit([baseline, ours]), unlabelled))
    for path, name in zip((baseline, ours), names, strict=True):
        for note in notes(path, name):
            print(note)
    if html:
        html.resolve().parent.mkdir(parents=True, exist_ok=True)
        print(f"Case by case: {compare_report(baseline, ours, names, html)}")


if __name__ == "__main__":
    main()
