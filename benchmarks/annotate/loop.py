"""One loop of a simulated annotator, in this process: what the server's buttons call, without the server.

Next Sample, Submit Label and Train are ``app.next_sample``, ``datastore.save_label`` and ``app.train``. Weights are random
at the start. After each training the network that serves is tested on scans that are in neither pool.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

from annotate.main import AnnotateApp
from annotate.start import prepare
from custom.cohort.names import stem

from .cohort import Cohort, load


def simulate(
    cohort: Cohort, out: Path, method: str, strategy: str, seed: int, labels: int, epochs: int, **known: Any
) -> None:
    """Label ``labels`` scans one at a time; a row for each in ``rows.jsonl``."""
    shutil.rmtree(out, ignore_errors=True)
    studies = out / "studies"
    studies.mkdir(parents=True)
    for case in cohort.pool:
        shutil.copy(case["image"], studies)
    references = {stem(case["image"]): case["label"] for case in cohort.pool}
    app_dir, model = prepare(studies, f"{method}:{cohort.task}", out / "app")
    _set_seed(app_dir / "model" / model / "configs/train.yaml", seed)
    app = AnnotateApp(str(app_dir), str(studies), {"models": model})
    for number in range(1, labels + 1):
        random.seed(f"{seed} {number}")  # MONAI Label's `random` draws from this generator
        start = time.perf_counter()
        sample = app.next_sample({"strategy": strategy})
        asked = time.perf_counter() - start
        app.datastore().save_label(sample["id"], references[stem(sample["path"])], "final", {})
        result = app.train({"model": model, "max_epochs": epochs, "pretrained": True})
        row = {
            **known,
            "method": method,
            "strategy": strategy,
            "seed": seed,
            "labels": number,
            "sample": sample["id"],
            "seconds_to_choose": round(asked, 1),
            "seconds": round(time.perf_counter() - start, 1),
            "replaced": result["replaced"],
            "validation": result["dice"],
            "scans": result["scans"],
            "dice": app.served.dice(cohort.held_out),
        }
        print(f"{number} labels ({sample['id']}): Dice {row['dice']:.3f}. {result['message']}", flush=True)
        with (out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    (out / "done").touch()


def _set_seed(config: Path, seed: int) -> None:
    lines = config.read_text(encoding="utf-8").splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith("seed:"))
    lines[at] = f"seed: {seed}\n"
    config.write_text("".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("out", "cohort"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("arm", "method", "strategy"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("seed", "labels", "epochs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = vars(parser.parse_args())
    simulate(load(options.pop("cohort")), **options)
