"""Do two evaluated runs differ only in the use of unlabelled scans? Only then is a difference due to these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..run.checkpoint import differences
from ..run.config import RunConfig

WITHOUT = {"MeanTeacher": "Supervised"}
"""What a method is without its unlabelled term, where that has a name of its own: one network, one supervised loss, and
its moving average serves."""
USE = (
    *("unlabelled_batch", "view", "normalised", "over_classes", "train::strong", "train::mixing", "train::unlabelled"),
    *("train::unlabelled_dataset", "train::trainer::unlabelled", "train::method::consistency", "train::method::view"),
    *("train::method::normalised", "train::method::noise", "train::method::_target_"),
)
"""Settings of such a method that say how it uses unlabelled scans, and nothing else."""
TERMS = "terms that read unlabelled scans"  # of run.json, as the method says
COMPARED = ("amp", "initial_weights")  # of run.json; its scans are compared part by part


def only_unlabelled_differs(baseline_csv: Path, ours_csv: Path) -> bool:
    """Return whether both runs say that ours learnt from unlabelled scans, the baseline did not, and all else is equal.

    They say so in the finished bundles beside the evaluations: one method (or one and what it is :data:`WITHOUT` its
    unlabelled term) and its settings, seed included, the same
    labelled and validation scans, number format and initial weights; every term that reads unlabelled scans weighs 0 in
    the baseline alone. Where one of them says nothing the answer is no.

    Args:
        baseline_csv, ours_csv: tables of cases, ``<output_dir>/evaluation/<part>/<network>.csv``.
    """
    if baseline_csv.name != ours_csv.name:  # an average against what it is an average of
        return False
    both = [_said(path.resolve().parents[2] / "bundle") for path in (baseline_csv, ours_csv)]
    if both[0] is None or both[1] is None:
        return False
    (before, about_before), (now, about_now) = both[0], both[1]
    terms = about_now.get(TERMS, ())
    free = (*RunConfig.FREE, *(f"weights::{term}" for term in terms))
    if WITHOUT.get(_method(now)) == _method(before):
        free += USE
    return (
        not differences(before, now, free)
        and all(
            name in about and about[name] == about_now[name] for name in COMPARED for about in (about_before, about_now)
        )
        and all(_scans(about_before, part) == _scans(about_now, part) for part in ("labelled", "validation"))
        and not any(_weighs(before, term) for term in terms)
        and any(_weighs(now, term) for term in terms)
    )


def _said(bundle: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The settings of a run, and what its run.json says."""
    config, about = bundle / "configs" / "train.yaml", bundle / "run.json"
    if not (config.is_file() and about.is_file()):
        return None
    settings = RunConfig(ConfigParser(ConfigParser.load_config_file(config))).config
    return settings, json.loads(about.read_text(encoding="utf-8"))


def _method(config: Mapping[str, Any]) -> str:
    return str(config["train"]["method"]["_target_"]).rpartition(".")[2]


def _weighs(config: Mapping[str, Any], term: str) -> bool:
    weight = config["weights"].get(term, 0)
    return bool(weight.get("value", weight.get("ramp", 0)) if isinstance(weight, Mapping) else weight)


def _scans(about: Mapping[str, Any], part: str) -> str | None:
    return about.get("sha256 of the scans, names and voxels", {}).get(part)
