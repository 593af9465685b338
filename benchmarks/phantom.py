"""Supervised and mean teacher on the phantom, each through ``python -m monai.bundle run``.

    python -m benchmarks.phantom criterion                  few labels against all labels, supervised alone
    python -m benchmarks.phantom seeds --seeds 0 1 2 3 4    the difference over seeds, a row each

A finished run in the output folder is not run again. ``make demo`` is :mod:`.demo`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"supervised": "supervised", "mean_teacher": "mean teacher"}


def bundle(name: str, *arguments: str) -> None:
    """Do ``cd bundles/NAME && python -m monai.bundle run ...``, its output passed on."""
    folder = Path(name) if Path(name).is_absolute() else ROOT / "bundles" / name
    # MONAI's own warning that a config is code; these configs are this repository's
    environment = {**os.environ, "PYTHONWARNINGS": "ignore:parsing config_file"}
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", *arguments], cwd=folder, env=environment, check=True)


def train_and_evaluate(name: str, out: Path, **overrides: Any) -> Path:
    """Train a bundle and score it on the test part; return the run's folder."""
    options = [f"--{key}={value}" for key, value in {"output_dir": out, **overrides}.items()]
    if not (out / "bundle/models/model_final.pt").exists():
        print(f"\n--- {TITLES[name]}: training", flush=True)
        bundle(name, "training", "--config_file", "configs/train.yaml", *options)
    if not (out / "evaluation/test/summary.json").exists():
        print(f"\n--- {TITLES[name]}: score on the test scans", flush=True)
        bundle(name, "--config_file", "['configs/train.yaml','configs/evaluate.yaml']", *options)
    return out


def scores(run: Path, file: str) -> list[dict[str, Any]]:
    from custom.evaluation.case_table import read_cases

    return read_cases(run / "evaluation/test" / f"{file}.csv")


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
            files = {"supervised": ("supervised", f"model{suffix}"), "network": ("supervised", f"network{suffix}"),
                     "teacher": ("mean_teacher", f"model{suffix}"), "student": ("mean_teacher", f"student{suffix}")}  # fmt: skip
            found = {key: scores(runs[name], file) for key, (name, file) in files.items()}
            row[kind] = {key: round(statistics.mean(r["dice_mean"] for r in cases), 4) for key, cases in found.items()}
            for baseline in ("supervised", "network"):
                difference = paired_difference(found["teacher"], found[baseline])
                row[kind][f"teacher minus {baseline}"] = [
                    round(v, 4) for v in (difference.mean, difference.low, difference.high)
                ]
        rows.append(row)
        print(json.dumps(row), flush=True)
        (out / "seeds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for kind in ("best", "final"):
        for baseline in ("supervised", "network"):
            values = [100 * row[kind][f"teacher minus {baseline}"][0] for row in rows]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            print(f"{kind} weights, teacher minus {baseline}: {statistics.mean(values):+.1f} +- {spread:.1f} Dice points over "
                  f"{len(values)} seeds ({', '.join(f'{v:+.1f}' for v in values)})")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phantom", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("what", choices=("criterion", "seeds"))
    parser.add_argument("--output", type=Path, default=ROOT / "runs/phantom", help="default: runs/phantom/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args(arguments)
    out = options.output.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if options.what == "seeds":
        seeds(out, options.seeds)
    else:
        criterion(out)


if __name__ == "__main__":
    main()
