"""Supervised and mean teacher on the phantom, each through ``python -m monai.bundle run``.

    python -m benchmarks.phantom demo                       one seed, a table, pictures (make demo)
    python -m benchmarks.phantom criterion                  few labels against all labels, supervised alone
    python -m benchmarks.phantom seeds --seeds 0 1 2 3 4    the difference over seeds, a row each

A finished run in the output folder is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"supervised": "supervised", "mean_teacher": "mean teacher"}


def bundle(name: str, *arguments: str) -> None:
    """``cd bundles/NAME && python -m monai.bundle run ...``, its output passed on."""
    folder = Path(name) if Path(name).is_absolute() else ROOT / "bundles" / name
    # MONAI's own warning that a config is code; these configs are this repository's
    environment = {**os.environ, "PYTHONWARNINGS": "ignore:parsing config_file"}
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", *arguments], cwd=folder, env=environment, check=True)


def train_and_evaluate(name: str, out: Path, **overrides: Any) -> Path:
    """A run of a bundle with its scores on the test part; returns its folder."""
    told = [f"--{key}={value}" for key, value in {"output_dir": out, **overrides}.items()]
    if not (out / "bundle/models/model_final.pt").exists():
        print(f"\n--- {TITLES[name]}: training ({out})", flush=True)
        bundle(name, "training", "--config_file", "configs/train.yaml", *told)
    if not (out / "evaluation/test/summary.json").exists():
        print(f"\n--- {TITLES[name]}: evaluation on the test part", flush=True)
        bundle(name, "--config_file", "['configs/train.yaml','configs/evaluate.yaml']", *told)
    return out


def scores(run: Path, file: str) -> list[dict[str, Any]]:
    from custom.evaluation.compare import read_cases

    return read_cases(run / "evaluation/test" / f"{file}.csv")


def demo(out: Path) -> None:
    from custom.evaluation.compare import paired_difference, table, verdict
    from custom.phantom import ensure
    from custom.report import compare_report

    start = time.perf_counter()
    data = ensure("2d", out / "data/phantom_2d")
    runs = {name: train_and_evaluate(name, out / name, dataset_dir=out / "data") for name in TITLES}
    results: dict[str, Sequence[dict[str, Any]]] = {
        "supervised": scores(runs["supervised"], "model"),
        "supervised, moving average": scores(runs["supervised"], "average"),
        "mean teacher": scores(runs["mean_teacher"], "model"),
        "mean teacher, student": scores(runs["mean_teacher"], "student"),
    }
    pictures = draw_pictures(out, data, results["supervised"], runs)
    text = "\n".join(
        [
            "Test part of the phantom: Dice in points, HD95 and ASD in mm (4 labelled, 40 unlabelled, 60 test patients)",
            "",
            table(results, classes_of(runs["supervised"])),
            "",
            "Mean teacher against supervised: "
            + verdict(paired_difference(results["mean teacher"], results["supervised"])),
            "Against the moving average of supervised training, which costs no unlabelled scan: "
            + verdict(paired_difference(results["mean teacher"], results["supervised, moving average"])),
        ]
    )
    (out / "result.md").write_text(text + "\n")
    print(f"\n{text}\n\nOne seed, one short run: a demonstration, not a finding. README has the five seeds.")
    baseline, ours = (runs[name] / "evaluation/test/model.csv" for name in ("supervised", "mean_teacher"))
    page = compare_report(baseline, ours, ("supervised", "mean teacher"), out / "compare.html")
    print(f"The two case by case: {page}, each alone: {out}/*/evaluation/test/report.html")
    print(f"Pictures, contours of reference and predictions: {pictures}")
    print("Learning curves: " + ", ".join(str(run / "learning_curves.png") for run in runs.values()))
    print(f"Scores of every case: {out}/*/evaluation/test   trained bundles: {out}/*/bundle")
    print(f"Took {(time.perf_counter() - start) / 60:.1f} minutes.")


def classes_of(run: Path) -> list[str]:
    channel_def = json.loads((run / "bundle/configs/metadata.json").read_text())["network_data_format"]["outputs"][
        "pred"
    ]["channel_def"]
    return list(channel_def.values())[1:]


def draw_pictures(out: Path, data: Path, baseline: Sequence[Mapping[str, Any]], runs: Mapping[str, Path]) -> Path:
    """The supervised network's worst, median and best case, so that nothing is picked by hand."""
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
        print(f"\n--- {TITLES[name]}: inference with the trained bundle", flush=True)
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


def criterion(out: Path) -> None:
    """The phantom is fit for use if all labels are worth at least 10 Dice points over the few, supervised."""
    from custom.phantom import ensure

    data = ensure("2d", out / "data/phantom_2d")
    few = train_and_evaluate("supervised", out / "few", dataset_dir=out / "data")
    full = train_and_evaluate("supervised", out / "all", dataset_dir=out / "data",
                              data_list=data.parent / "list_all_labelled.json")  # fmt: skip
    means = [statistics.mean(row["dice_mean"] for row in scores(run, "model_final")) for run in (few, full)]
    gain = 100 * (means[1] - means[0])
    print(f"few labels {means[0]:.3f}, all labels {means[1]:.3f}: {gain:.1f} Dice points "
          f"({'at least' if gain >= 10 else 'LESS THAN'} the 10 that are asked for)")  # fmt: skip


def seeds(out: Path, numbers: Sequence[int]) -> None:
    from custom.evaluation.compare import paired_difference
    from custom.phantom import ensure

    ensure("2d", out / "data/phantom_2d")
    rows = []
    for seed in numbers:
        runs = {
            name: train_and_evaluate(name, out / f"{name}_{seed}", dataset_dir=out / "data", seed=seed)
            for name in TITLES
        }
        row: dict[str, Any] = {"seed": seed}
        for kind, suffix in (("best", ""), ("final", "_final")):
            files = {"supervised": ("supervised", f"model{suffix}"), "average": ("supervised", f"average{suffix}"),
                     "teacher": ("mean_teacher", f"model{suffix}"), "student": ("mean_teacher", f"student{suffix}")}  # fmt: skip
            found = {key: scores(runs[name], file) for key, (name, file) in files.items()}
            row[kind] = {key: round(statistics.mean(r["dice_mean"] for r in cases), 4) for key, cases in found.items()}
            for baseline in ("supervised", "average"):
                difference = paired_difference(found["teacher"], found[baseline])
                row[kind][f"teacher minus {baseline}"] = [
                    round(v, 4) for v in (difference.mean, difference.low, difference.high)
                ]
        rows.append(row)
        print(json.dumps(row), flush=True)
        (out / "seeds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for kind in ("best", "final"):
        for baseline in ("supervised", "average"):
            values = [100 * row[kind][f"teacher minus {baseline}"][0] for row in rows]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            print(f"{kind} weights, teacher minus {baseline}: {statistics.mean(values):+.1f} +- {spread:.1f} Dice points over "
                  f"{len(values)} seeds ({', '.join(f'{v:+.1f}' for v in values)})")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phantom", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("what", choices=("demo", "criterion", "seeds"))
    parser.add_argument("--output", type=Path, help="where everything goes (default: demo/ or runs/phantom/)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    told = parser.parse_args(arguments)
    out = (told.output or ROOT / ("demo" if told.what == "demo" else "runs/phantom")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    if told.what == "seeds":
        seeds(out, told.seeds)
    else:
        {"demo": demo, "criterion": criterion}[told.what](out)


if __name__ == "__main__":
    main()
