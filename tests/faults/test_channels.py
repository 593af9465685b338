"""Modalities that are missing or unknown, channels and axes of another number."""

from __future__ import annotations

import logging

import pytest
from cohort_files import (
    IMAGE,
    SIZE,
    affine,
    assert_says,
    logged,
    noise,
    two_modalities,
)


@pytest.mark.fault("5d", "a modality on another grid")
def test_a_modality_on_another_grid_is_named_with_the_first(good):
    good.task |= {"channels": ["flair", "t1ce"]}
    two_modalities(good)
    good.write("p2_t1ce.nii.gz", noise("x2"), affine((1, 1, 1.5)))
    grid = "Grids: labelled, p2: p2_t1ce.nii.gz is not on the grid of p2.nii.gz: spacing 1.0x1.0x1.5 against 1.0x1.0x1.0 mm"
    assert_says(good.faults(), f"{grid} ... Resample all modalities")


@pytest.mark.fault("7", "a missing modality")
def test_a_missing_modality_is_counted_in_training_and_refused_in_evaluation(good, caplog):
    caplog.set_level(logging.INFO)
    good.task |= {"channels": ["flair", "t1ce"]}
    two_modalities(good)
    del good.parts["labelled"][0]["image"]["t1ce"], good.parts["unlabelled"][0]["image"]["flair"]
    good.check()
    assert logged(caplog) == [
        "INFO labelled: 1 of 2 scans lack t1ce (p1)",
        "INFO unlabelled: 1 of 1 scans lack flair (p3_t1ce)",
    ]
    lacks = "1 of 2 channels (flair, t1ce); missing"
    assert_says(
        good.faults(missing_channels=False),
        f"Channels: labelled, p1: {lacks} t1ce. Add the file",
        f"Channels: unlabelled, p3_t1ce: {lacks} flair. Add the file",
    )
    del good.parts["test"][0]["image"]["t1ce"]
    assert_says(good.faults(), f"Channels: test, p5: {lacks} t1ce")
    assert not any("test" in message for message in caplog.messages)


@pytest.mark.fault("7", "a missing modality, networks that read one each")
def test_where_modalities_stand_alone_none_is_missed_anywhere_and_how_many_are_is_told(good, caplog):
    caplog.set_level(logging.INFO)
    good.task |= {"channels": ["flair", "t1ce"], "modalities_alone": True}
    two_modalities(good)
    del good.parts["unlabelled"][0]["image"]["flair"], good.parts["test"][0]["image"]["t1ce"]
    good.check()
    assert logged(caplog) == [
        "INFO unlabelled: 1 of 1 scans lack flair (p3_t1ce)",
        "INFO test: 1 of 1 scans lack t1ce (p5)",
    ]
    caplog.clear()
    good.check(missing_channels=False)  # inference: the one modality that is used is all there is
    assert not any("unlabelled" in message for message in caplog.messages)


@pytest.mark.fault("7", "an image that does not say which modality it is")
def test_where_modalities_stand_alone_an_image_must_say_which_it_is(good):
    good.task |= {"channels": ["flair", "t1ce"], "modalities_alone": True}
    two_modalities(good)
    good.parts["test"][0]["image"] = good.parts["test"][0]["image"]["t1ce"]
    found = "Channels: test, p5_t1ce: p5_t1ce.nii.gz: 1 channel, the task names 2 (flair, t1ce)"
    assert_says(good.faults(), f'{found} ... "image": {{"flair": ... --modality flair')


@pytest.mark.fault("7", "all modalities missing")
def test_a_scan_without_any_modality_is_refused_everywhere(good):
    good.parts["unlabelled"][0]["image"] = {}
    assert_says(good.faults(), "The list: unlabelled, p3: no image; expected a path, or a path for each modality")


@pytest.mark.fault("7", "a modality's file with two channels")
def test_a_modality_is_one_channel(good):
    good.parts["labelled"][1]["image"] = {"image": good.write(IMAGE, noise("p2", (*SIZE, 2)))}
    assert_says(
        good.faults(), "Channels: labelled, p2: p2.nii.gz has 2 channels, a modality's file has 1. Give a file for each"
    )


@pytest.mark.fault("7", "a list of files of another number")
def test_of_a_list_of_files_the_channels_are_counted(good):
    good.task |= {"channels": ["flair", "t1ce"]}
    two_modalities(good)
    for part in good.parts:
        for e in good.parts[part]:
            e["image"] = list(e["image"].values())
    good.check()
    good.parts["test"][0]["image"].pop()
    found = "Channels: test, p5: p5.nii.gz: 1 channel, the task names 2 (flair, t1ce)"
    assert_says(good.faults(), f'{found} ... "image": {{"flair": ... "t1ce": ')


@pytest.mark.parametrize(
    ("task", "shape", "text"),
    [
        ({"dimensions": 2}, SIZE, "is a volume of 16x16x16, the task wants pictures. Set slices to true"),
        ({"dimensions": 2, "slices": True}, (9, 9), "is a picture of 9x9, the task wants volumes. Set slices to false"),
    ],
)  # fmt: skip
@pytest.mark.fault("7", "scans of another number of axes")
def test_dimensions_are_those_that_the_network_sees(good, task, shape, text):
    good.task |= task
    good.parts = {"labelled": [], "unlabelled": good.parts["unlabelled"]}
    good.write("images/p3.nii.gz", noise("p3", shape))
    assert_says(good.faults(needs=()), f"Dimensions: unlabelled, p3: p3.nii.gz {text}")


def test_slices_and_3d_networks_want_volumes(good):
    for task in ({"dimensions": 2, "slices": True}, {"dimensions": 3}, {"dimensions": None}):
        good.check(**task)
