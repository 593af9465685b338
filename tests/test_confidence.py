"""How sure a network is of each case: ``custom/inference/confidence.py``."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents

from custom.inference.confidence import Confidence, confidence
from custom.study import jobs


def test_the_mean_is_over_voxels_where_something_may_be():
    p = torch.tensor([[0.99, 0.5, 0.2], [0.01, 0.5, 0.8]])  # the first voxel is surely background
    assert confidence(p.log()[:, None]) == pytest.approx((0.5 + 0.8) / 2)


def test_where_nothing_may_be_there_is_no_number():
    assert math.isnan(confidence(torch.tensor([[9.0, 9.0], [0.0, 0.0]])))


def test_probabilities_are_the_network_s_own():
    halves = lambda logits: torch.full_like(logits, 0.5)  # noqa: E731
    assert confidence(torch.tensor([[9.0], [0.0]]), halves) == 0.5


def test_the_file_names_every_case(tmp_path):
    handler = Confidence(tmp_path / "out", torch.nn.Identity())
    for name, logits in (("a", [[0.0], [0.0]]), ("b", [[99.0], [0.0]])):
        image = MetaTensor(torch.zeros(1, 1), meta={"filename_or_obj": f"/images/{name}.nii.gz"})
        handler(
            SimpleNamespace(state=SimpleNamespace(batch={"image": [image]}, output={"pred": [torch.tensor(logits)]}))
        )
    handler._write()
    assert json.loads((tmp_path / "out/confidence.json").read_text()) == {"a": 0.5, "b": None}


def test_it_is_written_before_a_scan_that_is_refused_ends_the_run(tmp_path):
    def refuse(engine: Engine) -> None:
        raise ValueError("1 of 2 scans not segmented")

    engine, first = Engine(lambda *_: None), Confidence(tmp_path, torch.nn.Identity())
    engine.register_events(*IterationEvents)
    config = ConfigParser({"handlers": [SimpleNamespace(attach=lambda e: e.add_event_handler(Events.COMPLETED, refuse))],
                           "saving": SimpleNamespace(attach=lambda e: None), "confidence": first})  # fmt: skip
    config["order"] = yaml.safe_load(jobs.CONFIDENCE)["evaluator::val_handlers"]
    for handler in config.get_parsed_content("order"):
        handler.attach(engine)
    with pytest.raises(ValueError, match="not segmented"):
        engine.run([0])
    assert json.loads((tmp_path / "confidence.json").read_text()) == {}
