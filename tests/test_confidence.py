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
from custom.inference.saving import SavePredictiond
from custom.study import jobs


def test_the_mean_is_over_voxels_where_something_may_be():
    p = torch.tensor([[0.99, 0.5, 0.2], [0.01, 0.5, 0.8]])  # the first voxel is surely background
    assert confidence(p.log()[:, None]) == pytest.approx((0.5 + 0.8) / 2)


def test_where_nothing_may_be_there_is_no_number():
    assert math.isnan(confidence(torch.tensor([[9.0, 9.0], [0.0, 0.0]])))


def test_probabilities_are_the_network_s_own():
    halves = lambda logits: torch.full_like(logits, 0.5)  # noqa: E731
    assert confidence(torch.tensor([[9.0], [0.0]]), halves) == 0.5


def made(folder, kept=(), noted=()):
    return SimpleNamespace(saving=SavePredictiond(folder, [0, 1]), kept=list(kept), noted=dict(noted))


def test_the_file_names_every_case(tmp_path):
    out = tmp_path / "out"
    kept = {"c": 0.7, "d": None}
    noted = {out / f"{name}_pred.nii.gz": {"confidence": value} for name, value in kept.items()}
    handler = Confidence(
        out, torch.nn.Identity(), made(out, [(f"/images/{path.name[0]}.nii.gz", path) for path in noted], noted)
    )
    for name, logits in (("a", [[0.0], [0.0]]), ("b", [[99.0], [0.0]])):
        image = MetaTensor(torch.zeros(1, 1), meta={"filename_or_obj": f"/images/{name}.nii.gz"})
        handler(
            SimpleNamespace(state=SimpleNamespace(batch={"image": [image]}, output={"pred": [torch.tensor(logits)]}))
        )
    assert handler.made.noted[out / "a_pred.nii.gz"] == {"confidence": 0.5}, (
        "for the line, before the prediction is written"
    )
    handler.finish()
    assert json.loads((out / "confidence.json").read_text()) == {"a": 0.5, "b": None, **kept}


def test_it_is_written_before_a_scan_that_is_refused_ends_the_run(tmp_path):
    def refuse(engine: Engine) -> None:
        raise ValueError("1 of 2 scans not segmented")

    engine, first = Engine(lambda *_: None), Confidence(tmp_path, torch.nn.Identity(), made(tmp_path))
    engine.register_events(*IterationEvents)
    config = ConfigParser({"handlers": [SimpleNamespace(attach=lambda e: e.add_event_handler(Events.COMPLETED, refuse))],
                           "saving": SimpleNamespace(attach=lambda e: None), "confidence": first})  # fmt: skip
    config["order"] = yaml.safe_load(jobs.CONFIDENCE)["evaluator::val_handlers"]
    for handler in config.get_parsed_content("order"):
        handler.attach(engine)
    with pytest.raises(ValueError, match="not segmented"):
        engine.run([0])
    assert json.loads((tmp_path / "confidence.json").read_text()) == {}
