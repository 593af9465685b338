"""Rows of finished runs of the benchmark, small enough to be known by heart."""

from benchmarks.compare.results import families

SIZES = {"sizes": {"screen": {"acdc": {}, "lgg": {}}}, "variants": {}}
FILES = ("model", "model_final")


def cases(dices, contrasts=None, **more):
    found = [
        {
            "case": f"c{i}",
            "patient": f"p{i}",
            "dice_A": d,
            "dice_mean": d,
            "hd95_mm_mean": 2.0,
            "missed": 0,
            "false_alarms": 0,
            **more,
        }
        for i, d in enumerate(dices)
    ]
    for case, value in zip(found, contrasts or [], strict=False):
        case |= {"contrast": value, "boundary_dice": case["dice_mean"]}
    return found


def summary(of):
    known = [case["dice_mean"] for case in of if case["dice_mean"] is not None]
    metrics = {"dice_mean": {"mean": sum(known) / len(known)}, "hd95_mm_mean": {"mean": 2.0}}
    if "boundary_dice" in of[0]:
        metrics["boundary_dice"] = {"mean": sum(case["boundary_dice"] for case in of) / len(of)}
    counts = {"missed": 0, "false_alarms": 0, "empty_labels": len(of) - len(known)}
    return {"cases": len(of), "patients": len(of), **counts, "classes": {"A": counts}, "metrics": metrics}


def row(name, dices, task="acdc", labels="7", seed=0, files=None, contrasts=None, **more):
    """A finished run whose every file of weights scored so on its cases, unless ``files`` tells them apart."""
    found = {file: cases(values, contrasts) for file, values in (files or dict.fromkeys(FILES, dices)).items()}
    return {
        "size": "screen", "task": task, "labels": labels, "name": name, "bundle": name, "seed": seed,
        "overrides": {"steps": 4}, "steps": 4,
        "date": "2026-11-22", "commit": "abc", "machine": "2 cores", "versions": {"torch": "2.13.0"}, "seconds": 120.0,
        "validation_seconds": 30.0, "peak_mb": 100, "served_as": {"model": "network", "other": "teacher"},
        "best_in_validation": {"score": 0.5, "epoch": 2},
        "validation": [{"step": 2, "network/dice_mean": 0.25}, {"step": 4, "network/dice_mean": 0.5}],
        "networks": {file: summary(of) for file, of in found.items()}, "cases": found, **more,
    }  # fmt: skip


def one_entry(rows, name, sizes=SIZES, place=0):
    return next(entry for entry in families(rows, sizes)[place].entries if entry.name == name)


def three_seeds():
    rows = [row("supervised", [0.5] * 6, seed=seed) for seed in range(3)]
    return [*rows, *(row("a", [0.6 + 0.1 * seed] * 6, seed=seed) for seed in range(3)), row("b", [0.4] * 6)]


def lines_of(text, name):
    return [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith(f"| {name} ")
    ]
