"""The record of intensities that shipped weights lacked, made anew from the scans that they were trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import ROOT, enter_bundle

from custom.cohort.intensities import FILE
from distribution.cards import PRETRAINED, CardError, read
from distribution.intensities import phantom_of, record

RGB = "phantom_rgb_coarse_refined"


def card(name):
    return read(PRETRAINED / name / "card.yaml")


def test_the_record_of_a_phantom_is_the_one_that_is_shipped(monkeypatch):
    one = card(RGB)
    enter_bundle(ROOT / "bundles" / one.method, monkeypatch)
    found, shipped = record(one, phantom_of(one)), json.loads((one.models / FILE).read_text(encoding="utf-8"))
    assert found.keys() == shipped.keys()
    for channel, numbers in found.items():
        for name, extent in numbers.items():
            assert list(extent) == pytest.approx(
                shipped[channel][name], abs=1e-3
            )  # the phantom is drawn on this processor


def test_other_scans_than_those_of_the_card_are_refused(monkeypatch, tmp_path):
    one = card(RGB)
    enter_bundle(ROOT / "bundles" / one.method, monkeypatch)
    from custom import phantom

    phantom.draw("rgb", tmp_path, patients={"labelled": 2, "unlabelled": 2, "validation": 1, "test": 1})
    with pytest.raises(
        CardError, match=rf"{RGB}: labelled scans of .*list\.json are not those of the card\. Give the list"
    ):
        record(one, str(tmp_path / "list.json"))


def test_a_phantom_is_found_in_the_commands_or_by_the_task_and_other_cards_need_their_list():
    one = card("phantom_2d_supervised")
    assert phantom_of(one) == "phantom:2d"
    other = replace(one, training={"commands": ["cd bundles/supervised", "run --data_list phantom:unseen_contrast"]})
    assert phantom_of(other) == "phantom:unseen_contrast"
    assert phantom_of(card("phantom_two_channels_contrastive_mutual")) == "phantom:two_channels"
    with pytest.raises(CardError, match=r"was not trained on a phantom: give its list of scans, --data_list"):
        phantom_of(card("hippocampus_supervised"))
