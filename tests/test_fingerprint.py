"""The promises of custom/cohort/fingerprint.py: sums over a few voxels that can be done on paper."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from saying import says

from custom.cohort.errors import CohortError
from custom.cohort.fingerprint import describe, fingerprint
from custom.cohort.record import Record


def scan(folder: Path, name: str, voxels, spacing_mm=(1.0, 1.0, 1.0), dtype=np.int16) -> str:
    path = folder / f"{name}.nii"
    image = nib.Nifti1Image(np.asarray(voxels, dtype), np.diag([*spacing_mm, 1.0]))
    nib.save(image, path)
    return str(path)


def picture(folder: Path, name: str, voxels) -> str:
    import itk

    voxels = np.asarray(voxels, np.uint8)
    path = folder / f"{name}.png"
    itk.imwrite(itk.image_from_array(voxels, is_vector=voxels.ndim == 3), str(path))
    return str(path)


def entry(folder: Path, name: str, voxels, label=None, spacing_mm=(1.0, 1.0, 1.0)) -> dict[str, str]:
    found = {"patient": name, "image": scan(folder, name, voxels, spacing_mm)}
    return found if label is None else found | {"label": scan(folder, f"{name}_label", label, spacing_mm)}


def taken(**parts) -> dict:
    return fingerprint(parts, Record(None))


def block(x: int = 2, y: int = 2, z: int = 2) -> np.ndarray:
    """0, 1, 2, ... in the shape asked for."""
    return np.arange(x * y * z).reshape(x, y, z)


def test_spacing_and_size_are_min_median_and_max_along_each_axis(tmp_path):
    found = taken(
        labelled=[entry(tmp_path, "a", block(2, 3, 4), block(2, 3, 4) % 2, (1.0, 1.0, 5.0))],
        unlabelled=[entry(tmp_path, "b", block(4, 3, 2), spacing_mm=(2.0, 1.0, 8.0))],
        validation=[entry(tmp_path, "c", block(5, 3, 3), block(5, 3, 3) % 2, (1.5, 1.0, 10.0))],
    )
    assert found["dimensions"] == 3
    assert found["spacing_mm"] == {"min": [1, 1, 5], "median": [1.5, 1, 8], "max": [2, 1, 10]}
    assert found["size"] == {"min": [2, 3, 2], "median": [4, 3, 3], "max": [5, 3, 4]}
    assert found["scans"] == {"labelled": 1, "unlabelled": 1, "validation": 1}


def test_a_large_cohort_with_one_odd_image_is_judged_in_one_pass(tmp_path, monkeypatch):
    from custom.cohort import fingerprint as module

    passes, most = [], module._most
    monkeypatch.setattr(module, "_most", lambda values: passes.append(1) or most(values))
    entries = [entry(tmp_path, str(i), block()) for i in range(8)] + [entry(tmp_path, "flat", np.ones((4, 4)))]
    with pytest.raises(CohortError, match="unlabelled, flat: has 2 dimensions, most images have 3"):
        taken(unlabelled=entries)
    assert len(passes) == 2, "one of the dimensions, one of the channels of the modality"


def test_a_class_s_volume_is_its_voxels_times_the_voxel_over_the_cases_that_have_it(tmp_path):
    """1, 2 and 4 voxels of 10 x 10 x 5 mm, 0.5 ml each; the third has class 2 alone."""
    labels = [np.zeros((2, 2, 2)) for _ in range(4)]
    labels[0].flat[:1], labels[1].flat[:2], labels[2].flat[:4], labels[3].flat[:4] = 1, 1, 1, 3
    found = taken(labelled=[entry(tmp_path, str(i), block(), label, (10, 10, 5)) for i, label in enumerate(labels)])
    assert found["label_values"] == [0, 1, 3]
    assert found["classes"]["1"] == {"cases": 3, "volume_ml": {"min": 0.5, "median": 1.0, "max": 2.0}}
    assert found["classes"]["3"] == {"cases": 1, "volume_ml": {"min": 2.0, "median": 2.0, "max": 2.0}}


def test_intensities_are_the_extremes_and_the_median_scan_s_percentiles(tmp_path):
    """Values 0 to 200, then 10 and 100 times as much: percentiles 0.5, 50, 99.5 % of the second are 10, 1000, 1990."""
    steps = np.arange(201).reshape(201, 1, 1)
    found = taken(unlabelled=[entry(tmp_path, str(k), steps * k) for k in (1, 10, 100)])
    assert found["intensity"] == {"image": {"min": 0, "p0.5": 10, "median": 1000, "p99.5": 1990, "max": 20000}}
    assert found["classes"] == {}
    assert found["label_values"] == []


def test_the_test_part_is_counted_and_chooses_nothing_but_is_recorded(tmp_path):
    train = entry(tmp_path, "a", block(), block() % 2)
    other = entry(tmp_path, "b", block(3, 3, 3) * 100, block(3, 3, 3) % 5, (2, 2, 2))
    record = Record(None)
    found = fingerprint({"labelled": [train], "test": [other]}, record)
    assert found.pop("scans") == {"labelled": 1, "test": 1}
    alone = taken(labelled=[train])
    del alone["scans"]
    assert found == alone
    assert record.known(other["image"])
    assert record.known(other["label"])


def test_a_label_of_an_unlabelled_scan_is_not_opened(tmp_path):
    (tmp_path / "bad.nii").write_bytes(b"no image")
    found = taken(unlabelled=[{**entry(tmp_path, "a", block()), "label": str(tmp_path / "bad.nii")}])
    assert found["classes"] == {}


def test_each_modality_is_a_channel_in_the_order_of_a_scan_that_has_all(tmp_path):
    first = {"patient": "a", "image": {"t1ce": scan(tmp_path, "a1", block())}}
    second = {"patient": "b", "image": {"flair": scan(tmp_path, "b0", block() * 10),
                                        "t1ce": scan(tmp_path, "b1", block() * 3)}}  # fmt: skip
    found = taken(unlabelled=[first, second])
    assert found["channels"] == ["flair", "t1ce"]
    assert [found["intensity"][name]["max"] for name in found["channels"]] == [70, 21]


def test_a_colour_picture_has_three_channels_and_classes_in_pixels(tmp_path):
    colours = np.zeros((2, 4, 3))
    colours[..., 0], colours[..., 2] = 200, 50
    mask = np.zeros((2, 4))
    mask[0, :3] = 255
    found = taken(labelled=[{"image": picture(tmp_path, "a", colours), "label": picture(tmp_path, "a_mask", mask)}])
    assert (found["dimensions"], found["channels"]) == (2, ["red", "green", "blue"])
    assert [found["intensity"][c]["median"] for c in found["channels"]] == [200, 0, 50]
    assert found["label_values"] == [0, 255]
    assert found["classes"]["255"] == {"cases": 1, "pixels": {"min": 3, "median": 3, "max": 3}}
    assert [line for line in describe(found) if line.startswith(("spacing", "size", "label"))] == [
        "size       4 x 2 pixels",
        "label      255 in 1 of 1 labels, 3 pixels",
    ]


def test_channels_of_a_volume_s_fourth_axis_are_numbered(tmp_path):
    found = taken(unlabelled=[{"image": scan(tmp_path, "a", np.stack([block(), block() * 2], axis=-1))}])
    assert found["channels"] == ["image 1", "image 2"]
    assert found["intensity"]["image 2"]["median"] == 7


def test_modalities_may_differ_in_how_many_channels_they_hold(tmp_path):
    double = np.stack([block(), block()], axis=-1)
    cases = [{"image": {"t1": scan(tmp_path, f"{i}t1", block()), "t2": scan(tmp_path, f"{i}t2", block()),
                        "flow": scan(tmp_path, f"{i}flow", double)}} for i in "ab"]  # fmt: skip
    assert taken(unlabelled=cases)["channels"] == ["t1", "t2", "flow 1", "flow 2"]


def test_all_files_that_cannot_be_used_are_in_one_report(tmp_path):
    """Unreadable ones by part and case, and those that differ from most in dimensions or channels."""
    good = [entry(tmp_path, f"good{i}", block()) for i in range(3)]
    bad = entry(tmp_path, "bad", block(), block())
    Path(bad["label"]).write_bytes(Path(bad["label"]).read_bytes()[:-1])
    flat = {"image": picture(tmp_path, "flat", np.zeros((4, 4)))}
    double = {"image": scan(tmp_path, "double", np.zeros((2, 2, 2, 2)))}
    with pytest.raises(CohortError) as error:
        taken(unlabelled=[*good, double], validation=[bad], test=[{**flat, "label": good[0]["image"]}])
    first, *lines = str(error.value).split("\n  ")
    assert first == "3 of 7 files cannot be used:"
    assert lines[0].startswith("validation, bad: bad_label.nii ")
    found = (("unlabelled, double: channels: 2", "have 1"), ("test, flat: has 2 dimensions", "have 3"))
    for line, (case, expected) in zip(lines[1:], found, strict=True):
        says(line, case, f"most images {expected}", "Convert it", "take it out")


def test_odd_labels_and_voxels_are_warned_of_once_a_kind(tmp_path):
    def case(name: str, label) -> dict[str, str]:
        voxels = block().astype(np.float32)
        if name != "e":
            voxels[0, 0, 0] = math.nan
        return {"image": scan(tmp_path, name, voxels, dtype=np.float32),
                "label": scan(tmp_path, f"{name}_l", label, dtype=np.float32)}  # fmt: skip

    cases = [
        case(*arguments)
        for arguments in zip("abcde", (block() / 2, -block(), block(9, 9, 9), block(), block()), strict=True)
    ]
    found = taken(labelled=cases)
    voxels, values = found["warnings"]
    says(voxels, "4 cases", "a, b, c", "NaN or infinite")
    says(values, "a, b, c", "label values", "not all whole numbers >= 0", "over 64")
    assert found["label_values"] == [0, 1, 2, 3, 4, 5, 6, 7]


def test_what_files_are_warned_of_with_differing_numbers_is_one_warning(tmp_path):
    """Spacings of 30 and 40 mm are odd but can be read."""
    found = taken(unlabelled=[entry(tmp_path, f"far{mm}", block(), spacing_mm=(1, 1, mm)) for mm in (30.0, 40.0)])
    (warning,) = found["warnings"]
    assert warning.startswith("far30.0, far40.0: ")


def test_a_fingerprint_is_plain_json_and_says_nothing_of_what_is_not_there(tmp_path):
    blank = {"image": scan(tmp_path, "nan", np.full((2, 2, 2), math.nan), dtype=np.float32)}
    found = taken(unlabelled=[blank])
    assert found["intensity"] == {"image": {}}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "channel    image: no finite voxel" in describe(found)
    only_test = taken(test=[{**blank, "label": scan(tmp_path, "l", block())}])
    assert (only_test["dimensions"], only_test["spacing_mm"], only_test["channels"]) == (None, None, [])
    assert describe(only_test) == []


def test_a_description_gives_the_range_and_the_median(tmp_path):
    found = taken(
        labelled=[entry(tmp_path, "a", block(), block() % 2), entry(tmp_path, "b", block(2, 2, 4) * 2, block(2, 2, 4) % 3)],
        unlabelled=[entry(tmp_path, "c", block(2, 2, 8), spacing_mm=(1, 1, 2.5))],
    )  # fmt: skip
    assert describe(found) == [
        "spacing    1 x 1 x 1 to 1 x 1 x 2.5 (median 1 x 1 x 1) mm",
        "size       2 x 2 x 2 to 2 x 2 x 8 (median 2 x 2 x 4) voxels",
        "channel    image: 0 to 31; typically 0.15 to 29.85, median 15",
        "label      1 in 2 of 2 labels, 0.004 to 0.005 (median 0.0045) ml",
        "label      2 in 1 of 2 labels, 0.005 ml",
    ]
