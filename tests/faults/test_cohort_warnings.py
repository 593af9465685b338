"""Voxels, labels and spacings that are odd: what is a warning, what a note, and what stays a fault."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from cohort_files import (
    IMAGE,
    LABEL,
    PARTS,
    SIZE,
    affine,
    assert_says,
    logged,
    lump,
    noise,
    save_grey,
    with_nan,
)

from custom.stream.bank import Bank
from custom.stream.stream import Stream


@pytest.mark.fault("5c", "a spacing of 0.01 mm")
def test_an_odd_spacing_of_many_scans_is_one_warning(good, caplog):
    for part, patients in PARTS.items():
        for patient in patients:
            good.write(f"images/{patient}.nii.gz", noise(patient), affine((0.01, 1, 1)))
            if part != "unlabelled":
                good.write(f"labels/{patient}.nii.gz", lump(), affine((0.01, 1, 1)))
    good.check()
    (warning,) = logged(caplog)
    assert_says(
        [warning], "WARNING 5 scans (labelled, p1; labelled, p2; unlabelled, p3; ... the first: p1.nii.gz: ... 0.01"
    )


@pytest.mark.fault("5f", "voxels filled on demand")
def test_non_finite_voxels_that_are_filled_are_a_warning(good, caplog):
    good.write(IMAGE, with_nan(3))
    good.check(fill_nonfinite=True)
    assert logged(caplog) == ["WARNING labelled, p2: p2.nii.gz has 3 non-finite voxels of 4096, filled when read"]


@pytest.mark.fault("5f", "in a label, although images are filled")
def test_labels_are_never_filled(good, caplog):
    good.write(LABEL, np.where(lump(), np.nan, 0).astype(np.float32))
    assert_says(good.faults(fill_nonfinite=True), "Labels: labelled, p2: ... 256 non-finite voxels of 4096")
    assert caplog.messages == []


@pytest.mark.fault("5h", "a label without foreground")
def test_empty_labels_are_counted(good, caplog):
    caplog.set_level(logging.INFO)
    good.write(LABEL, lump(0))
    good.check()
    assert logged(caplog) == ["INFO labelled: 1 of 2 labels are empty (p2)"]


@pytest.mark.fault("5h", "a class that no labelled scan has")
def test_a_class_that_nobody_has_is_a_warning(good, caplog):
    good.check(classes=["background", "tumour", "oedema"])
    assert logged(caplog) == ["WARNING labelled: no scan has the class 2 oedema: it cannot be learnt"]


@pytest.mark.fault("6a", "one labelled scan, batches of four")
def test_a_labelled_stream_of_one_case_draws_whole_batches(good):
    del good.parts["labelled"][1], good.parts["unlabelled"][:]
    assert good.check()["labelled"] == 1
    bank = Bank(good.parts["labelled"], lambda case: {"image": torch.ones(1, *SIZE), "label": torch.zeros(1, *SIZE)})
    assert Stream(bank, batch=4, patch=(8, 8, 8)).draw().cases == ("p1",) * 4


@pytest.mark.fault("5f", "an image without a finite voxel")
@pytest.mark.parametrize("fill", [False, True])
def test_an_image_without_a_finite_voxel_is_refused_even_where_voxels_are_filled(good, fill):
    good.write("images/p1.nii.gz", np.full(SIZE, np.nan, np.float32))
    assert_says(good.faults(fill_nonfinite=fill), "Voxels: labelled, p1: p1.nii.gz has no finite voxel. Remove")


def test_a_blank_image_is_a_warning(good, caplog):
    good.write("images/p1.nii.gz", np.full(SIZE, 7, np.int16))
    good.check()
    assert logged(caplog) == ["WARNING labelled, p1: p1.nii.gz is blank: it is 7 all over"]


@pytest.mark.fault("5d", "a picture with a label of the same size")
def test_pictures_are_compared_by_size_alone(good):
    good.task |= {"dimensions": 2, "channels": ["red", "green", "blue"], "label_values": [0, 255]}
    for part in good.parts:
        for e in good.parts[part]:
            e["image"] = good.picture(
                f"{e['patient']}.png", np.random.default_rng(int(e["patient"][1])).random((20, 30, 3))
            )
            if part != "unlabelled":
                e["label"] = good.picture(f"{e['patient']}_mask.png", lump(255, shape=(20, 30)))
    first = good.faults()[:1]  # matplotlib saves a fourth channel, opacity
    assert_says(first, "Channels: labelled, p1: p1.png: 4 channels, the task names 3 ... without transparency")
    for part in good.parts:
        for e in good.parts[part]:
            save_grey(
                Path(e["image"]), np.random.default_rng(int(e["patient"][1])).integers(0, 255, (20, 30, 3), np.uint8)
            )
    good.check()
    good.picture("p1_mask.png", lump(255, shape=(20, 31)))
    assert_says(good.faults(), "Grids: labelled, p1: label p1_mask.png")
    good.picture("p1_mask.png", lump(1, shape=(20, 30)))
    assert_says(good.faults(), "Labels: labelled, p1: label p1_mask.png ... {0, 1}, the task names {0, 255}. Remap 1")


@pytest.mark.fault("12", "a case named as an expression")
def test_a_case_named_as_an_expression_is_a_string(good, monkeypatch):
    monkeypatch.chdir(good.folder)
    nasty = "$__import__('os').mkdir('ran')"
    name = f"{nasty}.nii.gz"
    good.parts["unlabelled"][0] |= {"patient": nasty, "image": good.write(name, noise("p3", (9, 9)))}
    assert_says(good.faults(), f"Dimensions: unlabelled, {nasty}: {nasty}.nii.gz is a picture")
    assert not (good.folder / "ran").exists()
