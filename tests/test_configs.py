"""One source of the configs: writing them again changes nothing, and a new method is a file, a fragment and a page."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import BUNDLES, ROOT, TINY
from monai.bundle import ConfigWorkflow

from custom.methods.schedule import TermWeights
from distribution.configs.fragment import FragmentError, read
from distribution.configs.write import FILES, PUBLISHED, write

FRAGMENTS = sorted((ROOT / "distribution/configs/methods").glob("*.yaml"))


def test_writing_the_configs_again_changes_nothing(tmp_path):
    """`make bundles` has been run: what lies in bundles/ is what base and fragments say."""
    folders = write(ROOT, tmp_path / "bundles")
    assert [folder.name for folder in folders] == [bundle.name for bundle in BUNDLES]
    for folder in folders:
        ours = ROOT / "bundles" / folder.name
        published = read(ROOT / f"distribution/configs/methods/{folder.name}.yaml").published
        files = [*FILES, *([PUBLISHED] if published else [])]
        assert sorted(path.name for path in (ours / "configs").iterdir()) == sorted(files)
        for name in [*(f"configs/{file}" for file in files), "LICENSE"]:
            assert (folder / name).read_text() == (ours / name).read_text(), f"{folder.name}/{name}: run `make bundles`"


@pytest.mark.parametrize(
    ("name", "term", "full"),
    [
        ("mean_teacher", "consistency", 1.0),
        ("ua_mt", "consistency", 1.0),
        ("cps", "cross", 0.5),
        ("coarse_refined", "consistency", 1.0),
        ("task_affinity", "pseudo", 1.0),
    ],
)
def test_a_term_that_follows_an_answer_begins_with_next_to_nothing(name, term, full):
    """Nobody follows a network that knows nothing yet: 0.67 % of the weight at the first step, all of it from 40 % on."""
    spec = yaml.safe_load((ROOT / f"bundles/{name}/configs/train.yaml").read_text())["weights"]
    weights = TermWeights(spec, list(spec))
    assert weights.at(0.0)[term] == pytest.approx(full * math.exp(-5))
    assert weights.at(0.2)[term] == pytest.approx(full * math.exp(-5 / 4))
    assert weights.at(0.4)[term] == weights.at(1.0)[term] == full


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_what_a_method_has_of_its_own_is_short(path):
    assert len(path.read_text().splitlines()) < 60


@pytest.mark.parametrize(
    ("line", "new", "text"),
    [("header:", "heading:", "unknown heading"), ("task: phantom_2d\n", "", "missing.*'task'")],
)
def test_a_fragment_with_a_wrong_key_is_refused_by_name(tmp_path, line, new, text):
    path = tmp_path / "toy.yaml"
    path.write_text((ROOT / "distribution/configs/methods/mean_teacher.yaml").read_text().replace(line, new, 1))
    with pytest.raises(FragmentError, match=f"toy.yaml: .*{text}"):
        read(path)


TOY_METHOD = '''\
"""The student agrees with itself on mirrored unlabelled scans."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from .base import Method
from .batch import Batch
from .schedule import Progress


class Mirrored(Method):
    terms: ClassVar[tuple[str, ...]] = ("supervised", "mirror")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("mirror",)

    def __init__(self, network: nn.Module, supervised: nn.Module, axis: int) -> None:
        super().__init__()
        self.network, self.supervised, self.axis = network, supervised, axis

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        terms = {}
        if progress.wants("supervised"):
            terms["supervised"] = self.supervised(self.network(labelled.image).float(), labelled.label)
        if progress.wants("mirror"):
            there, back = self.network(unlabelled.image), self.network(unlabelled.image.flip(self.axis)).flip(self.axis)
            terms["mirror"] = (there.softmax(1) - back.softmax(1)).square().mean()
        return terms

    def serving(self) -> dict[str, nn.Module]:
        return {"network": self.network}
'''
TOY_FRAGMENT = """\
header: "Mirrored: a mirrored scan has a mirrored segmentation."
task: phantom_2d
settings: |
  learning_rate: 0.03        # SGD with Nesterov momentum 0.9
  weights:                   # of the named terms
    supervised: 1.0
    mirror: 0.1
  axis: 2                    # the axis that is mirrored
method: |
  _target_: scripts.methods.mirrored.Mirrored
  network: '@network'
  supervised: {{ dice_ce }}
  axis: '@axis'
metadata:
  task: "Semi-supervised segmentation: mirrored scans"
  description: A toy.
  references: [None]
"""


def test_a_new_method_is_a_file_a_fragment_and_a_page(tmp_path, phantoms, bundle_cwd, run_bundle):
    """The recipe of docs/extend.md, in a copy of the tree."""
    for name in ("custom", "distribution"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
    shutil.copy(ROOT / "LICENSE", tmp_path / "LICENSE")
    (tmp_path / "custom/methods/mirrored.py").write_text(TOY_METHOD)
    (tmp_path / "distribution/configs/methods/mirrored.yaml").write_text(TOY_FRAGMENT)
    bundle = tmp_path / "bundles/mirrored"
    (bundle / "docs").mkdir(parents=True)
    (bundle / "docs/README.md").write_text("# Mirrored\n")

    command = [sys.executable, "-m", "distribution.configs"]
    wrote = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [Path(folder).name for folder in wrote] == sorted([*(bundle.name for bundle in BUNDLES), "mirrored"])

    bundle_cwd(bundle)
    workflow = ConfigWorkflow(
        "configs/train.yaml", workflow_type="train", logging_file=False, dataset_dir=str(phantoms)
    )
    workflow.initialize()
    assert workflow.check_properties() == []

    both = ["configs/train.yaml", "scripts/tasks/phantom_2d.yaml"]
    out = run_bundle(bundle, "training", both, **TINY, axis=3)
    assert "term/mirror" in (out / "metrics.csv").read_text()
    own = {"output_dir": str(tmp_path / "again"), "models_dir": str(out / "bundle/models")}
    run_bundle(out / "bundle", "run", ["configs/train.yaml", "configs/evaluate.yaml"], **own)
    assert "model" in json.loads((tmp_path / "again/evaluation/test/summary.json").read_text())
    assert yaml.safe_load((out / "bundle/configs/train.yaml").read_text())["axis"] == 3
    assert json.loads((out / "bundle/run.json").read_text())["terms that read unlabelled scans"] == ["mirror"]
