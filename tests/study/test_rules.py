"""The numbers of a task by rules: those of the tasks that were made by hand, and each rule by itself."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from monai.data import MetaTensor
from monai.transforms import Compose, Resized
from saying import says

from custom.inference.label_map import LabelMapd
from custom.study.places import Place
from custom.study.rules import PATCH, Number, coarsened, grid_of, numbers, patch_of, scan_voxels, too_coarse
from custom.study.seen import Seen

TWO = {0: "background", 1: "heart"}


def volumes(size: tuple[float, ...], spacing: tuple[float, ...], **more: Any) -> Seen:
    return Seen(**{"size": size, "spacing_mm": spacing, "channels": ("image",), "modality": ("",), "classes": TWO,
                   "smallest": 1e6, **more})  # fmt: skip


def pictures(*size: float, **more: Any) -> Seen:
    return volumes(size, (1.0, 1.0), **more)


ACDC = volumes((216, 256, 9), (1.5, 1.5, 10))
LA = volumes((192, 144, 88), (0.625, 0.625, 0.625))
HIPPOCAMPUS = volumes((35, 51, 36), (1, 1, 1), smallest=1551)
LGG = volumes((128, 128, 15), (1, 1, 1), channels=("flair", "t1ce"), modality=("", ""))
KVASIR = pictures(256, 256, channels=("red", "green", "blue"), modality=("",) * 3)
HC18 = pictures(192, 128)


def values(found: dict[str, Number]) -> dict[str, Any]:
    return {name: number.value for name, number in found.items()}


def task(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / f"custom/tasks/{name}.yaml").read_text(encoding="utf-8"))


# the tasks that were made by hand

SAME = ("epoch_steps", "labelled_batch", "unlabelled_batch", "foreground", "widths", "dropout", "norm", "channels",
        "dimensions", "slices")  # fmt: skip


@pytest.mark.parametrize(("seen", "name", "also"), [
    (ACDC, "acdc", ["spacing_mm", "preprocessing"]),
    (LA, "la", ["orientation", "preprocessing"]),
    (HIPPOCAMPUS, "hippocampus", ["patch", "spacing_mm", "orientation", "preprocessing", "inferer"]),
    (LGG, "lgg", ["patch", "orientation", "inferer"]),
    (KVASIR, "kvasir", ["patch", "orientation", "preprocessing", "inferer"]),
    (HC18, "hc18", ["patch", "orientation", "preprocessing", "inferer"]),
])  # fmt: skip
def test_the_rules_find_what_was_chosen_by_hand(seen, name, also):
    found, by_hand = values(numbers(seen)), task(name)
    ids = [*SAME, *also]
    assert {i: found[i] for i in ids} == {i: by_hand[i] for i in ids}


def test_the_left_atrium_is_seen_twice_as_coarse():
    found = values(numbers(LA))
    assert found["spacing_mm"] == pytest.approx(task("la")["spacing_mm"], rel=0.02)
    assert math.prod(found["patch"]) == pytest.approx(math.prod(task("la")["patch"]), rel=0.1)


def test_a_task_s_ids_are_those_of_the_tasks_made_by_hand_without_the_budget_s():
    by_hand = set(task("hippocampus")) - {"data_list", "steps", "val_interval"}
    assert set(numbers(HIPPOCAMPUS)) == by_hand
    assert set(numbers(KVASIR)) == by_hand - {"spacing_mm"}


def test_a_number_has_a_reason_where_it_follows_from_the_scans():
    found = {name: number.reason for name, number in numbers(ACDC).items()}
    assert found["dimensions"] == "slices are 10 mm apart, 6.7 times a pixel: 2D"
    assert found["spacing_mm"] == "median of the cohort 1.5 x 1.5 mm; slices as they are"
    assert found["patch"] == "90% of the median slice of 216 x 256 at this spacing"
    assert numbers(KVASIR)["patch"].reason == "a whole picture: the median one, 256 x 256, resized"
    reason = numbers(LA)["spacing_mm"].reason
    says(reason, "median of the cohort 0.625 x 0.625 x 0.625 mm", "coarser", "a patch sees 67% of a scan")


# 2D or 3D, and where the axes run to


@pytest.mark.parametrize(("size", "spacing", "dimensions", "orientation"), [
    ((256, 256, 60), (1, 1, 2.9), 3, "RAS"),
    ((256, 256, 60), (1, 1, 3.0), 2, "RAS"),
    ((60, 256, 256), (3.0, 1, 1), 2, "ASR"),  # the thick axis comes last
    ((256, 60, 256), (1, 3.0, 1), 2, "RSA"),
    ((256, 60, 256), (1, 2.0, 1), 3, "RSA"),  # square in the plane that is rotated
    ((128, 128, 32), (1, 1, 1), 2, "RAS"),  # whatever the header says
    ((128, 127, 32), (1, 1, 1), 3, "RAS"),
    ((256, 256, 33), (1, 1, 1), 3, "RAS"),
    ((16, 128, 128), (1, 1, 1), 2, "ASR"),
    ((80, 100, 128), (1.02, 1.0, 1.0), 3, "RAS"),  # nearly cubic: which is the thickest is an accident
])  # fmt: skip
def test_slices_far_apart_or_few_are_seen_one_by_one_along_the_last_axis(size, spacing, dimensions, orientation):
    grid = grid_of(volumes(size, spacing))
    assert (grid.dimensions, grid.slices, grid.orientation) == (dimensions, dimensions == 2, orientation)
    assert grid.size == tuple(size["RAS".index(letter)] for letter in orientation)
    assert grid.spacing_mm == tuple(spacing["RAS".index(letter)] for letter in orientation)


def test_pictures_have_no_orientation():
    grid = grid_of(HC18)
    assert (grid.dimensions, grid.slices, grid.orientation) == (2, False, "")


# spacing


@pytest.mark.parametrize(("own", "most", "expected"), [
    ((1, 1, 1), 1e6, (1, 1, 1)),
    ((1, 1, 1), 1000, (10, 10, 10)),
    ((1, 1, 5), 50_000, (2, 2, 5)),  # 50 * 50 * 20: the thick axis waits
    ((1, 1, 5), 1000, (10, 10, 10)),
])  # fmt: skip
def test_fine_axes_become_coarser_first_until_the_extent_of_100_mm_fits(own, most, expected):
    assert coarsened((100, 100, 100), own, most) == pytest.approx(expected)


def test_the_smallest_class_bounds_how_coarse_a_grid_becomes():
    large = volumes((512, 512, 400), (0.8, 0.8, 1.0))
    assert numbers(large)["spacing_mm"].value == [2.4, 2.4, 2.4]  # three times
    assert "made coarser 3 times, the most" in numbers(large)["spacing_mm"].reason
    small = replace(large, smallest=300 * 8)  # twice as coarse it has 300 voxels
    assert numbers(small)["spacing_mm"].value == [1.6, 1.6, 1.6]
    assert "as far as the smallest class allows" in numbers(small)["spacing_mm"].reason
    assert numbers(replace(large, smallest=200))["spacing_mm"].value == [0.8, 0.8, 1.0]
    assert numbers(replace(large, smallest=math.nan))["spacing_mm"].value == [2.4, 2.4, 2.4]


def test_of_slices_the_pixels_of_one_bound_it():
    """A class of 2,700 voxels in 30 slices has 90 in each, of which 45 stay on a grid that is coarser sqrt(2) times."""
    seen = volumes((256, 256, 40), (1, 1, 4), smallest=2700, in_slices=(5.0, 6.0, 90.0))
    spacing = numbers(seen, room=0.13)["spacing_mm"]
    assert spacing.value == [1.41, 1.41, -1]
    says(spacing.reason, "as far as the smallest class allows: 45 of its 90 pixels a slice stay")
    turned = volumes((40, 256, 256), (4, 1, 1), smallest=2700, in_slices=(90.0, 5.0, 6.0))
    assert numbers(turned, room=0.13)["spacing_mm"].value == [1.41, 1.41, -1]


def test_a_tiny_class_is_why_a_grid_is_not_made_coarser_and_a_small_share_has_its_digits():
    ct = volumes((512, 512, 60), (0.7, 0.7, 2), smallest=50)
    for room, share in ((1.0, "1.2%"), (0.13, "0.16%")):
        found = numbers(ct, room=room)
        assert found["spacing_mm"].value == [0.7, 0.7, 2]
        says(
            found["spacing_mm"].reason,
            "0.7 x 0.7 x 2 mm",
            "not made coarser for the smallest class: it has 50 voxels a scan",
        )
        assert found["patch"].reason.startswith(f"{share} of the median scan of 512 x 512 x 60")
        assert scan_voxels(ct, room) == 512 * 512 * 60


# pictures


def resized(found: dict[str, Number]) -> dict[str, Any]:
    (grid,) = (of for of in found["preprocessing"].value["transforms"] if of["_target_"] == "Resized")
    return {name: grid[name] for name in ("spatial_size", "size_mode") if name in grid}


LESION = pictures(2000, 1500, smallest=900, least=1, classes={0: "background", 1: "lesion"})


def test_the_smallest_class_bounds_how_small_pictures_become():
    """45 of 900 pixels stay where a side is 4.47 times shorter: 448 of 2,000, and a patch is a part of that."""
    found = numbers(LESION)
    assert resized(found) == {"spatial_size": [448, 336]}
    assert found["patch"].value == [256, 192]
    says(found["patch"].reason, "33% of a picture: the median one, 2000 x 1500, resized to 448 x 336",
         "as coarse as the smallest class allows: 45 of its 900 pixels a picture stay")  # fmt: skip
    assert found["foreground"].value == 0.5
    assert found["inferer"].reason == "windows of a patch that overlap by a quarter"
    assert too_coarse(LESION) == ""
    large = numbers(replace(LESION, smallest=90_000))
    assert resized(large) == {"spatial_size": "@patch"}
    assert (large["patch"].value, large["foreground"].value) == ([192, 144], 0.0)


def test_where_time_is_short_pictures_become_smaller_than_that_and_it_is_said():
    found = numbers(LESION, room=0.13)
    side = math.sqrt(9 * 0.13 * PATCH[2] * 2000 / 1500)  # nine patches
    assert resized(found) == {"spatial_size": [272, 208]}
    assert abs(272 - side) < 16
    says(found["patch"].reason, "resized to 272 x 208", "as fine as time allows: 18 of its 900 pixels a picture stay")
    says(too_coarse(LESION, 0.13), "the smallest outline, of lesion, has 900 pixels in a picture of 2000 x 1500", "keeps 18",
         "where 45 are wanted", "Allow more time, or cut the pictures")  # fmt: skip


@pytest.mark.parametrize("seen", [pictures(150, 100, smallest=9), replace(LESION, smallest=math.nan), LA])
def test_of_pictures_that_stay_as_they_are_or_have_no_class_and_of_volumes_nothing_is_too_coarse(seen):
    assert too_coarse(seen, 0.13) == ""


MIXED = pictures(560, 560, aspects=(480 / 640, 640 / 480))


def test_portraits_among_landscapes_keep_their_shape():
    found = numbers(MIXED)
    assert resized(found) == {"spatial_size": 192, "size_mode": "longest"}
    assert found["patch"].value == [192, 192]
    says(
        found["patch"].reason,
        "a whole picture: the longer side becomes 192 pixels",
        "from 0.75 : 1 to 1.33 : 1",
        "each keeps its shape",
    )
    wide = numbers(pictures(640, 480, aspects=(1.25, 2.0)))
    assert (resized(wide)["spatial_size"], wide["patch"].value) == (192, [192, 160])  # 192 / 1.25 is 153.6
    upright = numbers(pictures(480, 640, aspects=(0.5, 0.8)))
    assert (resized(upright)["spatial_size"], upright["patch"].value) == (192, [160, 192])


@pytest.mark.parametrize(
    ("aspects", "text"),
    [((1.2, 1.4), "; pictures of another shape are distorted by up to 1.11 times"), ((1.3, 1.36), "resized")],
)
def test_pictures_of_nearly_one_shape_become_one_and_by_how_much_they_are_distorted_is_said(aspects, text):
    found = numbers(pictures(640, 480, aspects=aspects))
    assert resized(found) == {"spatial_size": "@patch"}
    assert found["patch"].reason.endswith(text)


@pytest.mark.parametrize("shape", [(640, 480), (480, 640)])
def test_a_picture_that_keeps_its_shape_is_given_back_in_its_own_size(shape):
    (step,) = (of for of in numbers(MIXED)["preprocessing"].value["transforms"] if of["_target_"] == "Resized")
    before = Compose([Resized(**{name: value for name, value in step.items() if name != "_target_"})])
    label = torch.zeros(1, *shape)
    label[:, : shape[0] // 2, : shape[1] // 4] = 1
    small = before({"image": MetaTensor(label), "label": MetaTensor(label)})
    assert sorted(small["image"].shape[1:]) == [144, 192]
    logits = torch.cat([1 - small["label"], small["label"]])
    found = LabelMapd(before, [0, 1])({"image": small["image"], "pred": MetaTensor(logits)})["pred"]
    assert found.shape == label.shape
    # the corner of what is drawn is rounded by some of the small pixels
    assert (found != label).double().mean() < 1e-4


def test_numbers_of_pixels_are_plain_and_one_slice_is_one():
    assert "512 x 512 pixels" in numbers(volumes((512, 512, 1), (0.7, 0.7, 0.7)))["dimensions"].reason
    assert numbers(volumes((512, 512, 1), (0.7, 0.7, 0.7)))["dimensions"].reason.startswith(
        "1 slice of 512 x 512 pixels"
    )
    assert "2000 x 1500" in numbers(pictures(2000, 1500))["patch"].reason


def test_pixels_that_are_not_square_become_so():
    assert numbers(volumes((200, 200, 9), (1, 4, 16)))["spacing_mm"].value == [2, 2, -1]


def test_less_room_sees_as_much_on_a_coarser_grid_and_says_why():
    spacing, patch = (numbers(ACDC, room=0.25)[name] for name in ("spacing_mm", "patch"))
    (pixel, *_), voxels = spacing.value, PATCH[2] * 0.25
    # a patch sees two thirds: 324 x 384 mm have 3/2 of its voxels
    assert pixel == pytest.approx(math.sqrt(324 * 384 / (1.5 * voxels)), rel=1e-2)
    says(
        spacing.reason,
        "1.5 x 1.5 mm",
        f"coarser {pixel / 1.5:.2g} times",
        "67% of a scan",
        "time and memory allow",
        "; slices",
    )
    says(patch.reason, "of the median slice", "time and memory allow")
    half = numbers(KVASIR, room=0.25)["patch"]
    assert half.value == [96, 96]
    says(half.reason, "256 x 256", "time and memory allow")


def test_room_is_no_reason_where_it_changes_nothing_and_a_gpu_is_where_it_does():
    found = numbers(HIPPOCAMPUS, room=0.5)
    assert found["patch"].value == numbers(HIPPOCAMPUS)["patch"].value
    assert not any("allow" in found[name].reason for name in ("spacing_mm", "patch"))
    assert not any("GPU" in numbers(HIPPOCAMPUS, room=4)[name].reason for name in ("spacing_mm", "patch"))
    for name in ("spacing_mm", "patch"):
        assert numbers(LA, room=8)[name].reason.endswith("(a GPU carries more)")


REASONED = {
    "slices": ACDC, "volumes": LA, "small volumes": HIPPOCAMPUS, "few slices of two modalities": LGG, "colours": KVASIR,
    "grey pictures": HC18, "16 bit": replace(HC18, eight_bit=False), "turned": volumes((60, 256, 256), (3.0, 1, 1)),
    "ct": replace(LA, modality=("CT",), foreground=(-100.0, 240.5)), "large": volumes((512, 512, 400), (0.8, 0.8, 1.0)),
    "nameless": replace(LA, classes={0: "background", 7: "label 7"}), "a blank label": replace(LA, smallest=math.nan),
}  # fmt: skip


@pytest.mark.parametrize("room", [0.13, 1.0, 4.0])
@pytest.mark.parametrize("kind", REASONED)
def test_no_number_is_without_a_reason(kind, room):
    assert [name for name, number in numbers(REASONED[kind], room=room).items() if not number.reason.strip()] == []


@pytest.mark.parametrize(("seen", "reason"), [
    (HC18, "a whole picture at once"), (HIPPOCAMPUS, "a scan of the median size at once"),
    (LA, "windows of a patch that overlap by a quarter"), (ACDC, "a slice at once, where it is not larger"),
])  # fmt: skip
def test_the_inferer_s_reason_is_what_a_network_sees_at_once(seen, reason):
    assert numbers(seen)["inferer"].reason == reason


def test_small_windows_overlap_by_half_and_say_so():
    found = numbers(LA, room=0.25)["inferer"]
    assert found.value["overlap"] == 0.5
    assert found.reason == "windows of a patch that overlap by half, as they are small"


def test_more_room_sees_more():
    assert math.prod(numbers(LA, room=8)["patch"].value) > 4 * math.prod(numbers(LA)["patch"].value)
    assert numbers(LA, room=8)["spacing_mm"].value == [0.625] * 3
    assert numbers(LA, room=8)["widths"].value == [16, 32, 64, 128]
    assert numbers(pictures(1000, 500), room=4)["patch"].value == [384, 192]


@pytest.mark.parametrize("room", [0, -1])
def test_a_room_is_above_zero(room):
    with pytest.raises(ValueError, match=f"room is a factor above 0, got {room}"):
        numbers(ACDC, room=room)


@pytest.mark.parametrize(("size", "sides"), [
    ((1920, 1080), [192, 112]), ((100, 80), [96, 80]), ((28, 28), [32, 32]), ((540, 800), [128, 192]),
])  # fmt: skip
def test_pictures_keep_the_aspect_of_the_median_one_in_steps_of_16_and_are_not_enlarged(size, sides):
    assert numbers(pictures(*size))["patch"].value == sides


# patch and levels


@pytest.mark.parametrize(("field", "budget", "patch", "levels"), [
    ([216, 216], 224 * 224, [224, 224], 5),
    ([64, 64], 224 * 224, [64, 64], 4),  # 64 / 16 is under 6
    ([96, 96], 224 * 224, [96, 96], 5),
    ([512, 512], 224 * 224, [224, 224], 5),
    ([35, 51, 36], 200_000, [40, 56, 40], 4),
    ([200, 200, 200], 64**3, [64, 64, 64], 4),
    ([200, 100, 100], 2 * 40**3, [80, 40, 40], 4),  # equal shares
    ([100, 100, 14], 200_000, [100, 100, 16], 3),  # 14 / 8 is under 4
    ([30, 30, 3], 200_000, [30, 30, 4], 2),
])  # fmt: skip
def test_the_patch_is_the_whole_field_or_an_equal_share_of_its_axes(field, budget, patch, levels):
    assert patch_of(field, budget, len(field)) == (patch, levels)


def test_a_patch_fits_the_network_and_the_budget_whatever_the_field():
    sides = [5, 16, 33, 64, 100, 257]
    for dimensions in (2, 3):
        for field in itertools.product(sides, repeat=dimensions):
            patch, levels = patch_of(field, PATCH[dimensions], dimensions)
            assert all(side % 2 ** (levels - 1) == 0 for side in patch)
            assert math.prod(patch) <= PATCH[dimensions]
            assert all(side < n + 2 ** (levels - 1) for side, n in zip(patch, field, strict=True)), (
                "no more than padding"
            )


@pytest.mark.parametrize(("field", "batch"), [((35, 51, 36), 4), ((56, 56, 56), 2)])
def test_batches_in_3d_are_smaller_where_patches_are_large(field, batch):
    found = numbers(volumes(field, (1, 1, 1)))
    assert (found["labelled_batch"].value, found["unlabelled_batch"].value) == (batch, batch)


def test_a_slice_is_seen_at_once_unless_it_is_very_large():
    assert numbers(ACDC)["inferer"].value["roi_size"] == [224, 256]
    large = numbers(volumes((1000, 300, 20), (0.5, 0.5, 5), in_slices=(1, 1, 1)))
    assert large["inferer"].value["roi_size"] == [max(320, large["patch"].value[0]), 304]


# intensities


def scaling(seen: Seen) -> tuple[str, Any, Any]:
    found = numbers(seen)["preprocessing"].value["transforms"][-1]
    return found["_target_"].rpartition(".")[2], found.get("a_min"), found.get("a_max")


@pytest.mark.parametrize(("modality", "darkest", "expected"), [
    ("CT", 0, ("ScaleIntensityRanged", -100, 240.5)),
    ("ct", 0, ("ScaleIntensityRanged", -100, 240.5)),
    ("", -1024, ("ScaleIntensityRanged", -100, 240.5)),
    ("", -500, ("ScaleIntensityRanged", -100, 240.5)),
    ("", -499, ("ScalePercentilesd", None, None)),
    ("MRI", -1024, ("ScalePercentilesd", None, None)),
])  # fmt: skip
def test_hounsfield_units_are_cut_where_the_labels_foreground_ends(modality, darkest, expected):
    seen = replace(LA, modality=(modality,), darkest=darkest, foreground=(-100.0, 240.5))
    assert scaling(seen) == expected


def test_without_foreground_or_of_several_kinds_ct_is_scaled_by_percentiles():
    ct = replace(LA, modality=("CT",))
    assert scaling(ct)[0] == scaling(replace(ct, foreground=(5, 5)))[0] == "ScalePercentilesd"
    both = replace(ct, channels=("CT", "PET"), modality=("CT", "PET"), foreground=(0, 1))
    assert scaling(both)[0] == "ScalePercentilesd"


def test_pictures_of_8_bit_have_255_values_others_are_scaled_by_percentiles():
    assert scaling(HC18) == ("ScaleIntensityRanged", 0, 255)
    assert scaling(replace(HC18, eight_bit=False))[0] == "ScalePercentilesd"
    assert scaling(replace(HC18, darkest=-1000, eight_bit=False))[0] == "ScalePercentilesd", "no HU in pictures"


# sides


def places(*centres: tuple[float, ...], patients: int = 4) -> tuple[Place, ...]:
    return tuple(Place(f"p{i}", value, centre) for i in range(patients) for value, centre in enumerate(centres, 1))


def mirrored(seen: Seen, found: tuple[Place, ...]) -> tuple[Any, Any]:
    task = numbers(replace(seen, places=found))
    return task["rotate_degrees"].value, task["flip_prob"].value


def test_a_class_with_a_side_is_neither_mirrored_nor_turned():
    assert mirrored(LA, places((0.2, 0, 0))) == (15, 0.0)
    assert mirrored(LA, places((0, 0, -0.2))) == (180, 0.0), "not in the plane of rotations"
    assert mirrored(ACDC, places((0, 0, -0.2))) == (180, 0.5), "slices are never mirrored along their stack"
    assert mirrored(LA, places((0.1, 0, 0))) == (180, 0.5), "not far enough for four patients"
    assert mirrored(LA, places((0.1, 0, 0), patients=30)) == (15, 0.0)
    assert mirrored(HC18, places((0, 0.2))) == (15, 0.0)
    turned = volumes((9, 256, 216), (10, 1.5, 1.5))  # the network sees A, S
    assert mirrored(turned, places((0.2, 0, 0))) == (180, 0.5)
    assert mirrored(turned, places((0, 0, 0.2))) == (15, 0.0)


def test_the_order_of_two_classes_is_a_side():
    """The parts of the hippocampus lie so in two patients, each near the middle."""
    seen = replace(LA, classes={0: "background", 1: "anterior", 2: "posterior"})
    found = numbers(replace(seen, places=places((0, 0.15, 0), (0, -0.15, 0), patients=2)))
    assert (found["rotate_degrees"].value, found["flip_prob"].value) == (15, 0.0)
    assert found["flip_prob"].reason == "anterior lies to the front of posterior in all 2 labelled patients"
    assert mirrored(seen, places((0, 0.15, 0), (0, -0.15, 0), patients=1)) == (180, 0.5)
    either = places((0, 0.4, 0), (0, -0.4, 0), patients=8) + tuple(
        Place("q", value, (0, y, 0)) for value, y in ((1, -0.1), (2, 0.1)))  # fmt: skip
    assert mirrored(seen, either) == (180, 0.5), "one patient is otherwise"


def test_without_labelled_patients_enough_nothing_is_said_of_sides():
    assert numbers(LA)["flip_prob"].reason == "nothing is known of sides"
    free = numbers(replace(LA, places=places((0, 0, 0))))["flip_prob"]
    assert (free.value, free.reason) == (0.5, "no class is known by its side in 4 labelled patients")


def test_two_scans_of_a_patient_are_one_place_and_so_are_both_sides_of_a_class():
    pair = tuple(Place(f"p{i}", 1, (side, 0, 0)) for i in range(5) for side in (-0.3, 0.3))
    assert mirrored(LA, pair) == (180, 0.5)


# names


def test_names_are_no_references_of_a_config():
    seen = replace(LA, channels=("@patch",), classes={0: "background", 3: "$run", 7: "label 7"})
    found = values(numbers(seen))
    assert (found["channels"], found["classes"], found["label_values"]) == (
        ["patch"], ["background", "run", "label 7"], [0, 3, 7])  # fmt: skip
    assert numbers(seen)["classes"].reason == "nobody names them"
