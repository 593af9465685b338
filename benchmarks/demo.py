"""``make demo``: two methods on the phantom, explained to someone who sees such a thing for the first time.

    python -m benchmarks.demo [--output DIR]

A finished run in the output folder is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom.evaluation.compare import model_table, paired_difference, verdict

from .phantom import ROOT, TITLES, bundle, scores, train_and_evaluate

Rows = Sequence[Mapping[str, Any]]

PLAN = """\
WHAT THIS SHOWS, in about 10 minutes on 2 idle cores (longer on busy ones). Nothing is downloaded.

  Task      Outline three parts of the heart in 3D scans ({classes}),
            by a neural network.
  Scans     Drawn by this program (a "phantom"), so that the right outline of each is known:
            {labelled} scans come with their outline (labelled), {unlabelled} without (unlabelled),
            {validation} are for choosing (validation), and {test} for the final score (test).
  Question  Does a network that also looks at the {unlabelled} unlabelled scans outline the heart better
            than one that learns from the {labelled} labelled ones alone?

  1  supervised    trains on the labelled scans alone                       about 4 minutes
  2  mean teacher  trains on labelled and unlabelled scans                  about 5 minutes
  3  pictures      both outline the worst, the median and the best case     less than a minute

While a network trains, a line appears now and then. "supervised 0.12" is its error on the labelled
scans and should fall. "Dice 0.60" says how well it outlines the validation scans (1 is perfect)
and should rise.
"""

MEANING = """\
How to read the table
  Dice      overlap of the outlines found with the right ones: 100 is perfect, 0 is none. More is better.
  HD95, mm  how far the found border strays from the right one, its worst 5 % left aside. Less is better.
  ASD, mm   how far the found border is from the right one on average. Less is better.
  Missed    how often a part that is there was missed altogether. Its Dice is 0, and it has no distance.
  False alarms  how often a part was found where there is none. They count in this column alone.
  Cases     the test scans.

  supervised                  learnt from the labelled scans alone, its weights averaged over the last steps
  supervised, not averaged    the same run, the weights as they were at each step
  mean teacher                learnt from the unlabelled scans too, its weights averaged in the same way
  mean teacher, not averaged  the same run, the weights as they were at each step\
"""

INTERVAL = """\
  The 95 % interval is where the true difference plausibly lies, as only {test} scans were tested. If it
  contains 0, chance alone may explain the difference. This is one short run, and another seed moves the
  result by a point or two: a demonstration, not a finding. How much unlabelled scans of real hearts and
  other organs help, and where not: docs/results.md.\
"""

NEXT = """\
WHAT NEXT
  Open in a browser  {page}
                     both runs case by case: where mean teacher lost and gained most
  Look at            {pictures}/median.png (worst.png, best.png)
                     the outlines themselves
                     {out}/mean_teacher/learning_curves.png
                     how the training went
  Each run alone     {out}/*/evaluation/test/report.html
  Trained networks   {out}/*/bundle
  Your own scans     README.md, "Your own scans"; which method for what: "Which method"\
"""


def demo(out: Path) -> None:
    """Train, evaluate and compare both methods below ``out``, and say what each step and each figure means."""
    from custom.cohort.data_list import read
    from custom.evaluation.same_settings import only_unlabelled_differs
    from custom.phantom import ensure
    from custom.report import compare_report

    start = time.perf_counter()
    data = ensure("2d", out / "data/phantom_2d")
    counts = {part: len(entries) for part, entries in read(data).items()}
    print(PLAN.format(classes="right ventricle, myocardium, left ventricle", **counts), flush=True)
    runs = {name: train_and_evaluate(name, out / name, dataset_dir=out / "data") for name in TITLES}
    results: dict[str, list[dict[str, Any]]] = {
        "supervised": scores(runs["supervised"], "model"),
        "supervised, not averaged": scores(runs["supervised"], "network"),
        "mean teacher": scores(runs["mean_teacher"], "model"),
        "mean teacher, not averaged": scores(runs["mean_teacher"], "student"),
    }
    pictures = draw_pictures(out, data, results["supervised"], runs)
    baseline, ours = (runs[name] / "evaluation/test/model.csv" for name in ("supervised", "mean_teacher"))
    text = result(results, classes_of(runs["supervised"]), counts, only_unlabelled_differs(baseline, ours))
    (out / "result.md").write_text(f"```\n{text}\n```\n", encoding="utf-8")
    page = compare_report(baseline, ours, ("supervised", "mean teacher"), out / "compare.html")
    print(f"\n{text}\n\n{NEXT.format(page=page, pictures=pictures, out=out)}")
    print(f"\nTook {(time.perf_counter() - start) / 60:.1f} minutes.")


def result(
    results: Mapping[str, Sequence[dict[str, Any]]],
    classes: Sequence[str],
    counts: Mapping[str, int],
    unlabelled: bool = False,
) -> str:
    """The table, what its columns and rows mean, and the two verdicts with what an interval is.

    Args:
        results: rows of each network, by its name in :data:`MEANING`.
        classes: whose Dice is shown.
        counts: scans in each part.
        unlabelled: the runs say that they differ in the unlabelled scans alone.
    """
    by_method = paired_difference(results["mean teacher"], results["supervised"])
    by_step = paired_difference(results["mean teacher, not averaged"], results["supervised, not averaged"])
    return "\n".join([
        "RESULT on {test} test scans ({labelled} labelled and {unlabelled} unlabelled scans to learn from)".format(**counts),
        "", model_table(dict(results), classes), "", MEANING, "",
        "Did the unlabelled scans help?",
        f"  As they serve: {verdict(by_method, ('supervised', 'mean teacher'), unlabelled)}",
        f"  Both without averaging: {verdict(by_step, ('supervised', 'mean teacher'), unlabelled)}",
        INTERVAL.format(**counts),
    ])  # fmt: skip


def classes_of(run: Path) -> list[str]:
    metadata = json.loads((run / "bundle/configs/metadata.json").read_text(encoding="utf-8"))
    channels: dict[str, str] = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    return list(channels.values())[1:]


def draw_pictures(out: Path, data: Path, baseline: Rows, runs: Mapping[str, Path]) -> Path:
    """Draw the supervised network's worst, median and best case, so that nothing is picked by hand."""
    import nibabel

    from custom.cohort.data_list import read
    from custom.cohort.names import case_names, stem
    from custom.report.plots import case_pictures

    ranked = sorted((row for row in baseline if row["dice_mean"] == row["dice_mean"]), key=lambda row: row["dice_mean"])
    chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    test = read(data)["test"]
    entries = dict(zip(case_names(test), test, strict=True))
    images = out / "pictures/images"
    images.mkdir(parents=True, exist_ok=True)
    for row in chosen.values():
        shutil.copy(entries[row["case"]]["image"], images)
    for name, run in runs.items():
        print(f"\n--- {TITLES[name]}: outlines of three test scans, by the trained bundle", flush=True)
        bundle(str(run / "bundle"), "--config_file", "configs/inference.yaml",
               f"--dataset_dir={images}", f"--output_dir={out / 'pictures' / name}")  # fmt: skip
    for which, row in chosen.items():
        entry = entries[row["case"]]
        image: Any = nibabel.load(entry["image"])
        found = {
            TITLES[n]: voxels(next((out / "pictures" / n).glob(f"{stem(entry['image'])}_pred.nii.gz"))) for n in runs
        }
        case_pictures(
            image.get_fdata(), voxels(entry["label"]), found, out / "pictures" / f"{which}.png",
            f"{row['case']}: the supervised network's {which} case", classes_of(runs["supervised"]),
            tuple(float(s) for s in image.header.get_zooms()), "".join(nibabel.aff2axcodes(image.affine)),
        )  # fmt: skip
    return out / "pictures"


def voxels(path: str | Path) -> Any:
    import nibabel
    import numpy

    image: Any = nibabel.load(path)
    return numpy.asarray(image.dataobj).astype(numpy.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--output", type=Path, default=ROOT / "demo", help="where everything goes (default: demo/)")
    out = parser.parse_args(arguments).output.resolve()
    out.mkdir(parents=True, exist_ok=True)
    demo(out)


if __name__ == "__main__":
    main()
