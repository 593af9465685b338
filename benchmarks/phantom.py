"""Supervised and mean teacher on the phantom, each through ``python -m monai.bundle run``.

    python -m benchmarks.phantom criterion                  few labels against all labels, supervised alone, seeds 0 to 2
    python -m benchmarks.phantom criterion --form unseen_contrast    the same of the phantom that shows what cannot be gained
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LEAST_GAIN, MOST_SHARE = 10, 1 / 3
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
    if not (out / "bundle/run.json").exists():  # written last
        print(f"\n--- {TITLES[name]}: training", flush=True)
        bundle(name, "training", "--config_file", "configs/train.yaml", *options)
    if not (out / "evaluation/test/summary.json").exists():
        print(f"\n--- {TITLES[name]}: score on the test scans", flush=True)
        bundle(name, "--config_file", "['configs/train.yaml','configs/evaluate.yaml']", *options)
    return out


def scores(run: Path, file: str) -> list[dict[str, Any]]:
    from custom.evaluation.case_table import read_cases

    return read_cases(run / "evaluation/test" / f"{file}.csv")


def criterion(out: Path, form: str, numbers: Sequence[int]) -> None:
    """Is there something to gain that unlabelled scans can show? By supervised runs alone, before any other method runs.

    Asked for: all labels are worth at least ``LEAST_GAIN`` Dice points over the few, over all seeds; and no attribute of the
    patients explains more than ``MOST_SHARE`` of that: what a single kind of patient lacks, the few labels may lack altogether.
    """
    from custom.cohort.data_list import read
    from custom.phantom import draw_patient, ensure

    data = ensure(form, out / f"data/phantom_{form}")
    lists = {"few": data, "all": data.parent / "list_all_labelled.json"}
    dice: dict[str, dict[str, list[float]]] = {}
    for number in numbers:
        for name, data_list in lists.items():
            run = train_and_evaluate("supervised", out / f"{form}_{name}_{number}", dataset_dir=out / "data",
                                     data_list=data_list, seed=number)  # fmt: skip
            for row in scores(run, "model_final"):
                dice.setdefault(name, {}).setdefault(row["patient"], []).append(row["dice_mean"])
    means = {name: {case: statistics.mean(found) for case, found in cases.items()} for name, cases in dice.items()}
    gaps = {case: 100 * (means["all"][case] - means["few"][case]) for case in means["few"]}
    for index, number in enumerate(numbers):
        few, every = (statistics.mean(found[index] for found in dice[name].values()) for name in lists)
        print(f"seed {number}: few labels {few:.3f}, all labels {every:.3f}: {100 * (every - few):.1f} Dice points")
    gain = statistics.mean(gaps.values())
    print(
        f"mean {gain:.1f} Dice points ({'at least' if gain >= LEAST_GAIN else 'LESS THAN'} the {LEAST_GAIN} asked for)"
    )
    order = [str(entry["patient"]) for entries in read(data).values() for entry in entries]  # as they were drawn
    found = {case: draw_patient(form, order.index(case)).attributes for case in gaps}
    rows = [
        (*explained(gaps, {case: each[name] for case, each in found.items()}), name)
        for name in next(iter(found.values()))
    ]
    for share, group, name in sorted(rows, reverse=True):
        print(f"  {share:6.1%}  {name}: {group}")
    share = max(rows)[0]
    compared = "at most" if share <= MOST_SHARE else "MORE THAN"
    print(
        f"the worst group of an attribute explains {share:.0%} of the gain ({compared} the {MOST_SHARE:.0%} asked for)"
    )


def explained(gaps: Mapping[str, float], attribute: Mapping[str, float | str]) -> tuple[float, str]:
    """Share of the mean gap that goes away without the group that raises it most, and that group.

    ``1 - mean(gaps of the others) / mean(gaps)``; groups are the names, or the quarters by value, of at most half of all.
    """
    groups: dict[str, list[str]] = {}
    if all(isinstance(value, str) for value in attribute.values()):
        for case, name in attribute.items():
            groups.setdefault(str(name), []).append(case)
    else:
        order = sorted(attribute, key=lambda case: float(attribute[case]))
        for quarter in range(4):
            cases = order[quarter * len(order) // 4 : (quarter + 1) * len(order) // 4]
            groups[f"{float(attribute[cases[0]]):.3g} to {float(attribute[cases[-1]]):.3g}"] = cases
    shares = [(0.0, "no group")]
    for name, cases in groups.items():
        others = [gap for case, gap in gaps.items() if case not in cases]
        if len(cases) <= len(gaps) / 2:
            shares.append((1 - statistics.mean(others) / statistics.mean(gaps.values()), name))
    return max(shares)


def seeds(out: Path, form: str, numbers: Sequence[int]) -> None:
    from custom.evaluation.compare import paired_difference
    from custom.phantom import ensure

    ensure(form, out / f"data/phantom_{form}")
    rows = []
    for seed in numbers:
        runs = {
            name: train_and_evaluate(
                name, out / f"{form}_{name}_{seed}", dataset_dir=out / "data", data_list=f"phantom:{form}", seed=seed
            )
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
    parser.add_argument("--form", default="2d", help="of the phantom (default: 2d)")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 to 4, for criterion 0 to 2")
    options = parser.parse_args(arguments)
    out = options.output.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if options.what == "seeds":
        seeds(out, options.form, options.seeds or range(5))
    else:
        criterion(out, options.form, options.seeds or range(3))


if __name__ == "__main__":
    main()
