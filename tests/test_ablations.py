"""Every ablation that a bundle's docs name is reached by its overrides alone, and computes something else."""

from __future__ import annotations

import csv
import hashlib
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import BUNDLES, tiny
from monai.bundle import ConfigParser, ConfigWorkflow

from custom.methods.schedule import Progress

SECTION = "## Ablations"


def ablations(bundle: Path) -> list[tuple[str, str, str]]:
    """Rows ``| ablation | overrides | terms |`` of the bundle's docs."""
    text = (bundle / "docs/README.md").read_text()
    if SECTION not in text:
        return []
    lines = [line for line in text.split(SECTION)[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return [(name, overrides.strip("`"), terms) for name, overrides, terms in rows]


def files_of(overrides: str) -> list[str]:
    """The config files of an ablation, which may itself be one: ``configs/published.yaml``."""
    return ["configs/train.yaml", *([overrides] if overrides.endswith(".yaml") else [])]


def as_settings(overrides: str) -> dict[str, Any]:
    """``--weights::consistency 0 --keep high`` as the command line reads it."""
    words = [] if overrides == "-" or overrides.endswith(".yaml") else shlex.split(overrides)
    assert len(words) % 2 == 0, overrides
    return {key.removeprefix("--"): yaml.safe_load(value) for key, value in zip(words[::2], words[1::2], strict=True)}


def steps(bundle: Path) -> int:
    """Enough for every term: one of weight ``from: 0.926`` begins at step 13 of 14."""
    weights = yaml.safe_load((bundle / "configs/train.yaml").read_text())["weights"].values()
    latest = max(entry.get("from", 0.0) if isinstance(entry, dict) else 0.0 for entry in weights)
    return max(4, math.ceil(1 / (1 - latest)))


def sure(bundle: Path, small: dict[str, Any], file: Path) -> dict[str, str]:
    """Weights of a network that is sure of some voxels from the first step on: a threshold then parts them."""
    if bundle.name not in ("low_confidence", "unimatch"):
        return {}
    config = ConfigParser({**ConfigParser.load_config_file(bundle / "configs/train.yaml"), **small})
    torch.manual_seed(0)
    state = config.get_parsed_content("network_def").state_dict()
    torch.save({name: 20 * value if name.startswith("out.") else value for name, value in state.items()}, file)
    return {"initial_weights": str(file)}


LEVELS = {"urpc": {"widths": [4, 8, 16], "dropout": [0.0, 0.1, 0.1]}}  # so that two scales are fewer than all


def served(run: Path) -> str:
    """The hash of the weights that the run ends with: an ablation may change what serves, and no term."""
    state = torch.load(run / "bundle/models/model_final.pt", weights_only=True)
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()


each = pytest.mark.parametrize("bundle", [b for b in BUNDLES if b.name != "supervised"], ids=lambda p: p.name)


@each
def test_each_ablation_of_the_docs_computes_its_terms(bundle, bundle_cwd, phantoms, tmp_path):
    """One forward in each stage of the run: where a weight's window begins."""
    bundle_cwd(bundle)
    rows = ablations(bundle)
    assert len(rows) >= 3, "docs/README.md has no table of ablations"
    for name, overrides, terms in rows:
        settings = {**tiny(bundle), "dataset_dir": str(phantoms), "output_dir": str(tmp_path), **as_settings(overrides)}
        workflow = ConfigWorkflow(files_of(overrides), workflow_type="train", logging_file=False, **settings)
        workflow.initialize()
        trainer = workflow.parser.get_parsed_content("train::trainer")
        trainer.method.begin()
        trainer.labelled.start(1)
        trainer.unlabelled.start(1)
        labelled, unlabelled = (
            s.draw(trainer.method.strong_views if s is trainer.unlabelled else 0)
            for s in (trainer.labelled, trainer.unlabelled)
        )
        found = set()
        for start in sorted({weight.start for weight in trainer.weights.weights.values()}):
            progress = Progress(math.ceil(1000 * start), 1000, 1, 1, trainer.weights)
            found |= set(trainer.method(labelled, unlabelled, progress))
        assert sorted(found) == sorted(terms.split(", ")), name


@pytest.mark.slow
@each
def test_each_ablation_of_the_docs_has_its_terms_and_numbers_of_its_own(bundle, run_bundle, bundle_cwd, tmp_path):
    found = {}
    bundle_cwd(bundle)
    start = sure(bundle, tiny(bundle), tmp_path / "start.pt")
    rows = ablations(bundle)
    assert len(rows) >= 3, "docs/README.md has no table of ablations"
    for number, (name, overrides, terms) in enumerate(rows):
        small = {
            **tiny(bundle),
            **LEVELS.get(bundle.name, {}),
            **start,
            "steps": steps(bundle),
            "epoch_steps": 1,
            "val_interval": 4,
            **as_settings(overrides),
        }
        out = run_bundle(bundle, "training", files_of(overrides), **small, output_dir=str(tmp_path / str(number)))
        with (out / "metrics.csv").open(newline="") as file:
            epochs = list(csv.DictReader(file))
        computed = [column.removeprefix("term/") for column in epochs[0] if column.startswith("term/")]
        assert sorted(computed) == sorted(terms.split(", ")), name
        series = [[epoch[c] for c in epochs[0] if c.startswith(("term/", "watch/"))] for epoch in epochs]
        found[name] = series, served(out)
    alike = [(a, b) for a in found for b in found if a < b and found[a] == found[b]]
    assert alike == [], "these compute the same"
