"""The promises of custom/study/unlike.py: a scan unlike the labelled ones is named, in words with numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scan_files import write_nifti

from custom.cohort.facts import Facts, read
from custom.study.unlike import unlike


def facts(spacing=(1.0, 1.0, 5.0), shape=(100, 100, 10), percentiles=((0.0, 40.0, 200.0),), **more):
    affine = np.diag([*spacing, *[1.0] * (4 - len(spacing))])
    plain = Facts(
        sha256="", voxels="", shape=shape, channels=len(percentiles), spacing_mm=spacing,
        affine=tuple(map(tuple, affine.tolist())), dtype="int16", low=-1.0, high=300.0, percentiles=percentiles,
        nonfinite=0, values=None,
    )  # fmt: skip
    return replace(plain, **more)


def said(other, *labelled):
    """What is said of one scan beside labelled ones."""
    return unlike({f"l{k}": scan for k, scan in enumerate(labelled or [facts()])}, {"x": other}).get("x", [])


PLAIN = [facts(), facts(spacing=(1.2, 1.2, 5.0)), facts(percentiles=((0.0, 50.0, 220.0),))]


@pytest.mark.parametrize(("other", "texts"), [
    (facts(), []),
    (facts((1.0, 1.0, 15.0), (100, 100, 3)), ["3x coarser along the third axis (15 mm; labelled 5 mm)"]),  # 45 mm
    (facts((0.4, 1.0, 5.0), (250, 100, 10)), ["2.5x finer along the first axis (0.4 mm; labelled 1 to 1.2 mm)"]),
    (facts(shape=(100, 50, 10)), ["half the field of view along the second axis (50 mm; labelled 100 to 120 mm)"]),
    (facts(shape=(100, 100, 30)), ["3x the field of view along the third axis (150 mm; labelled 50 mm)"]),
    (facts(percentiles=((0.0, 120.0, 600.0),)),
     ["brighter than all labelled scans (99.5 % percentile 600; labelled 200 to 220)"]),
    (facts(percentiles=((0.0, 20.0, 100.0),)),
     ["darker than all labelled scans (99.5 % percentile 100; labelled 200 to 220)"]),
    (facts(percentiles=((0.0, 160.0, 200.0),)),
     ["brighter than all labelled scans (50 % percentile 160; labelled 40 to 50)"]),
    (facts(percentiles=((-150.0, 40.0, 200.0),)),
     ["darker than all labelled scans (0.5 % percentile -150; labelled 0)"]),
    (facts(dtype="float32"), ["stored as float32, the labelled scans as int16"]),
    (facts(dtype="uint8"), []),  # whole numbers, too
    (facts(percentiles=((math.nan,) * 3,), low=math.nan, high=math.nan), ["no finite voxel"]),
    (facts(percentiles=((7.0,) * 3,), low=7.0, high=7.0), ["7 all over"]),
    (facts(percentiles=((0.0, 40.0, 200.0),) * 3), ["3 channels, the labelled scans have 1"]),
    (facts((1.0, 1.0), (100, 100)), ["2 axes, the labelled scans have 3"]),
    (facts((1.0, 1.0, 15.0), (100, 100, 3), ((0.0, 120.0, 600.0),)),
     ["3x coarser along the third axis (15 mm; labelled 5 mm)",
      "brighter than all labelled scans (99.5 % percentile 600; labelled 200 to 220)"]),
])  # fmt: skip
def test_what_is_unlike_in_words(other, texts):
    assert said(other, *PLAIN) == texts


@pytest.mark.parametrize(("factor", "named"), [(1.49, False), (1.5, False), (1.51, True)])
def test_less_than_half_as_much_again_is_never_named(factor, named):
    for other in (
        facts((factor, 1.0, 5.0), (round(100 / factor), 100, 10)),
        facts((1 / factor, 1.0, 5.0), (150, 100, 10)),
    ):
        assert bool(said(other)) == named


def test_the_threshold_is_the_largest_distance_of_a_labelled_scan_from_the_others():
    """Spacing 1, 1, 1 and 4 mm: held out, the last lies a factor of 4 outside; so 15 mm is not named, 20 mm is."""
    labelled = [facts((s, 1.0, 5.0), (round(100 / s), 100, 10)) for s in (1.0, 1.0, 1.0, 4.0)]
    assert said(facts((15.0, 1.0, 5.0), (7, 100, 10)), *labelled) == []
    assert said(facts((20.0, 1.0, 5.0), (5, 100, 10)), *labelled) == [
        "5x coarser along the first axis (20 mm; labelled 1 to 4 mm)"
    ]


def test_scans_of_one_patient_are_held_out_together():
    """Two scans of 4 mm: one by one neither is outside; as one patient's they are, and so is 6.4 mm no surprise."""
    labelled = {f"l{k}": facts((s, 1.0, 5.0), (round(100 / s), 100, 10)) for k, s in enumerate((1.0, 1.0, 4.0, 4.0))}
    other = {"x": facts((6.4, 1.0, 5.0), (16, 100, 10))}
    assert "x" in unlike(labelled, other)
    assert unlike(labelled, other, {"l2": "p", "l3": "p"}) == {}


def test_few_scans_of_the_same_kind_are_named():
    random = np.random.default_rng(0)
    scans = {f"s{k}": facts(tuple(np.exp(random.normal(0, 0.3, 3))), percentiles=((0.0, *random.uniform(40, 200, 2)),))
             for k in range(12)}  # fmt: skip
    assert unlike(scans, scans) == {}
    many = {f"o{k}": facts(tuple(np.exp(random.normal(0, 0.3, 3))), percentiles=((0.0, *random.uniform(40, 200, 2)),))
            for k in range(200)}  # fmt: skip
    assert len(unlike(scans, many)) < 0.1 * 200  # of the same kind


def test_axes_are_those_of_the_body_not_of_the_file(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 200, (12, 10, 4)).astype(np.int16)
    straight = read(write_nifti(tmp_path / "a.nii.gz", voxels, np.diag([1.0, 1.0, 5.0, 1.0])))
    turned = np.zeros((4, 4))
    turned[2, 0], turned[0, 1], turned[1, 2], turned[3, 3] = 5.0, 1.0, 1.0, 1.0  # the file's first axis is foot-head
    other = read(write_nifti(tmp_path / "b.nii.gz", voxels.transpose(2, 0, 1), turned))
    assert other.spacing_mm != straight.spacing_mm
    assert said(other, straight) == []


def test_pictures_have_pixels_and_colours():
    colours = ((0.0, 40.0, 200.0), (0.0, 60.0, 220.0), (0.0, 30.0, 180.0))
    picture = facts((1.0, 1.0), (256, 256), colours, dtype="uint8")
    assert said(picture, picture) == []
    small = facts((1.0, 1.0), (64, 256), (colours[0], (0.0, 160.0, 220.0), colours[2]), dtype="uint8")
    assert said(small, picture) == [
        "a quarter of the field of view along the first axis (64 pixels; labelled 256 pixels)",
        "channel 2: brighter than all labelled scans (50 % percentile 160; labelled 60)",
    ]


def test_the_scan_is_compared_with_those_of_its_kind():
    """Grey pictures among labelled ones in colour: their channel is compared with the grey ones alone."""
    grey, colour = facts(), facts(percentiles=((0.0, 900.0, 1000.0),) * 3)
    assert said(facts(percentiles=((0.0, 800.0, 1000.0),)), grey, colour) == [
        "brighter than all labelled scans (99.5 % percentile 1000; labelled 200)"
    ]
    assert said(facts(percentiles=((0.0, 1.0, 2.0),) * 2), grey, colour) == [
        "2 channels, the labelled scans have 1 or 3"
    ]


def test_labelled_scans_that_say_nothing_stop_nothing():
    flat = facts(percentiles=((5.0,) * 3,), low=5.0, high=5.0)
    nothing = facts(percentiles=((math.nan,) * 3,), low=math.nan, high=math.nan)
    assert said(facts(), nothing) == []
    assert said(facts(), flat) == ["brighter than all labelled scans (99.5 % percentile 200; labelled 5)"]
    assert said(facts(), nothing, facts()) == []


def test_without_a_labelled_scan_it_is_refused():
    with pytest.raises(ValueError, match="what is unlike the labelled scans cannot be said without one: got none"):
        unlike({}, {"x": facts()})
