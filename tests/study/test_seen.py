"""What a plan is made from, read from files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cohort_files import affine, lump
from saying import raises
from scan_files import picture

from custom.cohort.errors import CohortError
from custom.cohort.record import Record
from custom.study.rules import numbers
from custom.study.seen import see
from custom.study.sources import Source

PLAIN = Source([], ("image",))


def test_the_median_scan_in_ras_and_the_classes_that_labels_hold(good):
    for patient, size in (("p1", (10, 20, 6)), ("p2", (12, 20, 6)), ("p4", (14, 20, 6))):
        turned = affine((2, 1, 5))[[1, 0, 2, 3]]  # its first axis runs to the front
        good.write(f"images/{patient}.nii.gz", np.arange(np.prod(size), dtype=np.int16).reshape(size), turned)
        good.write(f"labels/{patient}.nii.gz", lump(2, shape=size), turned)
    good.parts["unlabelled"] = []
    seen = see(good.parts, replace(PLAIN, classes={0: "air", 1: "liver"}), Record())
    assert (seen.size, seen.spacing_mm) == ((20, 12, 6), (1, 2, 5))
    assert seen.classes == {0: "air", 1: "liver", 2: "label 2"}
    assert (seen.smallest, seen.least) == (4 * 4 * 6, 2)
    # across the last axis all of its 6 slices show the class, across the others 4
    assert seen.in_slices == (4 * 6, 4 * 6, 4 * 4)
    assert np.isnan(seen.aspects).all()
    assert {place.patient for place in seen.places} == {"p1", "p2", "p4"}
    assert (seen.channels, seen.eight_bit, seen.foreground) == (("image",), False, None)


def test_labels_may_have_as_many_values_as_classes_are_named(good):
    for patient in ("p1", "p2", "p4"):
        label = np.zeros((16, 16, 16), np.uint8)
        label.flat[:118] = np.arange(118)
        good.write(f"labels/{patient}.nii.gz", label)
    named = {value: f"organ {value}" for value in range(118)}
    assert see(good.parts, replace(PLAIN, classes=named), Record()).classes == {**named, 0: "organ 0"}
    with raises(CohortError, "more than 64 different values", "between 0 and 117", "Is it the image"):
        see(good.parts, PLAIN, Record())


def test_scans_for_testing_choose_nothing(good):
    good.write("images/p5.nii.gz", np.zeros((99, 9, 9), np.int16), affine((9, 9, 9)))
    good.write("labels/p5.nii.gz", lump(7, shape=(99, 9, 9)), affine((9, 9, 9)))
    seen = see(good.parts, PLAIN, Record())
    assert (seen.size, seen.spacing_mm, list(seen.classes)) == ((16, 16, 16), (1, 1, 1), [0, 1])


def test_of_ct_the_foreground_s_intensities_are_measured(good):
    for part in good.parts.values():
        for entry in part:
            values = np.full((16, 16, 16), -1000, np.int16)
            values[4:8, 4:8] = np.linspace(0, 200, 256).reshape(4, 4, 16)  # where the label is
            values[0, 0, 0] = 3000 + int(entry["patient"][1])
            good.write(f"images/{entry['patient']}.nii.gz", values)
    seen = see(good.parts, PLAIN, Record())
    assert seen.ct
    assert seen.foreground == pytest.approx((1, 199), abs=1)
    assert see(good.parts, replace(PLAIN, modality=("MRI",)), Record()).foreground is None
    transform = numbers(seen)["preprocessing"].value["transforms"][-1]
    assert (transform["a_min"], transform["a_max"]) == pytest.approx((1, 199), abs=1)


def test_colours_are_named_and_so_are_the_channels_that_the_source_names(good):
    for part, entries in good.parts.items():
        for entry in entries:
            name = entry["patient"]
            pixels = np.full((12, 12, 3), 7 * int(name[1]), np.uint8)
            entry["image"] = str(picture(good.folder / f"{name}.png", pixels + np.arange(3, dtype=np.uint8)))
            if part != "unlabelled":
                entry["label"] = good.picture(f"label_{name}.png", lump(255, shape=(12, 12)))
    assert see(good.parts, PLAIN, Record()).channels == ("red", "green", "blue")
    named = Source([], ("R", "G", "B"), modality=("R", "G", "B"))
    assert see(good.parts, named, Record()).channels == ("R", "G", "B")
    seen = see(good.parts, PLAIN, Record())
    assert (seen.pictures, seen.eight_bit, seen.size) == (True, True, (12, 12))


def test_all_faults_are_in_one_report(good):
    good.write("labels/p1.nii.gz", lump(shape=(16, 16, 8)))
    good.bytes("images/p3.nii.gz", lambda content: content[:50])
    with pytest.raises(CohortError, match=r"(?s)^The scans cannot be used\..*p1.*not on the grid.*p3.*truncated"):
        see(good.parts, PLAIN, Record())


def test_labels_without_a_class_are_refused(good):
    for name in ("p1", "p2", "p4"):
        good.write(f"labels/{name}.nii.gz", lump(0))
    with raises(CohortError, "no label has a class", "3 labels are [0]", "expected 0, the background"):
        see(good.parts, PLAIN, Record())


def test_how_flat_and_how_upright_pictures_are(good):
    sizes = {"p1": (30, 40), "p2": (20, 40), "p3": (30, 40), "p4": (20, 40)}  # rows, columns
    for part, entries in good.parts.items():
        for entry in entries:
            name, (rows, columns) = entry["patient"], sizes.get(entry["patient"], (30, 40))
            pixels = np.arange(rows * columns).reshape(rows, columns).astype(np.uint8) + np.uint8(name[1])
            entry["image"] = str(picture(good.folder / f"{part}_{name}.png", pixels))
            if part != "unlabelled":
                entry["label"] = good.picture(f"label_{part}_{name}.png", lump(255, shape=(rows, columns)))
    seen = see(good.parts, PLAIN, Record())
    assert seen.aspects == pytest.approx((40 / 30, 40 / 20))
    assert seen.least == 255
