"""The promises of custom/cohort/formats/frames.py: whatever a DICOM series varies from frame to frame is honoured, or
refused by name, in the check and in training alike."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dicom_files
import numpy as np
import pytest
from dicom_files import DEFLATED, ENHANCED_CT, EXPLICIT, IMPLICIT, MR, SECONDARY, dicom, grouped, placed
from monai.data import MetaTensor
from monai.transforms import LoadImage, Spacing
from saying import says
from scan_files import LPS_TO_RAS, OBLIQUE, fault, numbered

from custom.cohort.facts import Facts, read
from custom.cohort.formats import ScanFault
from custom.cohort.reader import ScanReader

VOXELS = numbered(5, 4, 3)
ORIGIN, PIXELS, STEP = np.array([10.0, -20.0, 30.0]), (0.5, 0.75), 2.5  # mm
STRAIGHT = np.eye(3)
MIXED = ("several scans", "keep one of them", "convert it to NIfTI")


def loaded(path: Path) -> MetaTensor:
    return LoadImage(reader=ScanReader, ensure_channel_first=True)(path)


def both(path: Path) -> tuple[Facts, MetaTensor]:
    """What the check reads and what training reads: one grid, one set of values."""
    facts, image = read(path), loaded(path)
    np.testing.assert_allclose(image.affine, facts.affine, atol=1e-9)
    assert (tuple(image.shape[1:]), float(image.max())) == (facts.shape, facts.high)
    return facts, image


def refused(path: Path) -> str:
    """The fault's text, which is the same in the check and in training."""
    text = fault(path)
    with pytest.raises(ScanFault) as error:
        loaded(path)
    assert str(error.value) == text
    return text


def grid(direction: np.ndarray, spacing: Sequence[float], origin: np.ndarray = ORIGIN) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * np.asarray(spacing), origin
    return LPS_TO_RAS @ affine


def series(folder: Path, places: Sequence[Sequence[float]], changes: Sequence[dict] = (), **options: Any) -> Path:
    """A file a slice of ``VOXELS``; names and numbers say nothing of the order. ``changes``: elements of each slice."""
    for k, place in enumerate(places):
        elements = {**placed(place, STRAIGHT, PIXELS), **(changes[k] if changes else {})}
        number = k * 7 % 10
        dicom(folder / f"{number}.dcm", VOXELS[:, :, k % 3], elements, number=number, **options)
    return folder


def straight(count: int = 3) -> list[np.ndarray]:
    return [ORIGIN + np.array([0, 0, STEP * k]) for k in range(count)]


# several frames in one file


def enhanced(
    path: Path,
    order: Sequence[int] = (0, 1, 2),
    direction: np.ndarray = OBLIQUE,
    at: Sequence[float] = (0, 1, 2),
    rescale: Sequence[Sequence[float]] = ((),) * 3,
    **options: Any,
) -> Path:
    """Frames of ``VOXELS`` in an order of the file's own."""
    frames = [placed(ORIGIN + direction[:, 2] * STEP * at[k], direction, PIXELS) for k in order]
    groups = [grouped(frame, rescale[k]) for frame, k in zip(frames, order, strict=True)]
    return dicom(
        path, VOXELS[:, :, list(order)], {"5200|9229 SQ": [{}], "5200|9230 SQ": groups}, ENHANCED_CT, **options
    )


@pytest.mark.fault("5i", "frames of one file out of order")
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED])
def test_frames_of_one_file_lie_in_the_order_of_their_places(tmp_path, order, syntax):
    """Slicer/Slicer#6773: the distance of frames is taken for 1 mm."""
    facts, image = both(enhanced(tmp_path / "p01.dcm", order, syntax=syntax))
    np.testing.assert_array_equal(image[0], VOXELS)
    np.testing.assert_allclose(facts.affine, grid(OBLIQUE, (*PIXELS, STEP)), atol=1e-6)
    assert facts.warnings == ()


def test_frames_that_share_direction_and_pixel_size(tmp_path):
    shared = grouped(placed(ORIGIN, OBLIQUE, PIXELS), rescale=(2, -7))
    places = [{"0020|9113 SQ": shared["0020|9113 SQ"]}]
    for k in (1, 2):
        place = placed(ORIGIN + OBLIQUE[:, 2] * STEP * k, OBLIQUE)
        places.append({"0020|9113 SQ": grouped(place)["0020|9113 SQ"]})
    del shared["0020|9113 SQ"]
    elements = {"5200|9229 SQ": [shared], "5200|9230 SQ": places}
    facts, image = both(dicom(tmp_path / "p01.dcm", VOXELS, elements, ENHANCED_CT))
    np.testing.assert_array_equal(image[0], 2 * VOXELS - 7)
    np.testing.assert_allclose(facts.affine, grid(OBLIQUE, (*PIXELS, STEP)), atol=1e-6)


def test_a_file_of_frames_in_a_folder_of_its_own(tmp_path):
    _, image = both(enhanced(tmp_path / "p01/frames.dcm", (2, 0, 1)).parent)
    np.testing.assert_array_equal(image[0], VOXELS)


@pytest.mark.fault("5i", "several such files")
def test_two_files_of_several_frames_are_no_volume(tmp_path):
    for number in range(2):
        enhanced(tmp_path / f"p01/{number}.dcm", number=number)
    found = refused(tmp_path / "p01")
    says(found, "p01 holds 2 DICOM files", "up to 3 frames", "expected one such file", "files of one frame")


@pytest.mark.fault("5i", "a gap")
def test_a_gap_between_frames(tmp_path):
    found = refused(enhanced(tmp_path / "p01.dcm", at=(0, 1, 3)))
    says(found, "p01.dcm", "unequal distances", "up to 33% off the mean of 3.75 mm", "missing", "several scans")


@pytest.mark.fault("5i", "frames at one place")
def test_frames_of_one_place(tmp_path):
    text = refused(enhanced(tmp_path / "p01.dcm", at=(1, 1, 1)))
    says(text, "p01.dcm", "slices that lie at one place", "a film", "slices without a position")


@pytest.mark.fault("5i", "frames of different rescaling")
def test_frames_of_different_rescaling(tmp_path):
    """ITK applies the first frame's to all."""
    found = refused(enhanced(tmp_path / "p01.dcm", rescale=((1, 0), (1, 0), (2, -5))))
    says(found, "p01.dcm", "different rescaling", "(1, 0) and (2, -5)", "(slope, intercept)", *MIXED)


@pytest.mark.fault("5i", "a film")
def test_frames_without_a_place(tmp_path):
    found = refused(dicom(tmp_path / "film.dcm", VOXELS, {}, SECONDARY))
    says(
        found, "film.dcm has 3 frames", "none with a place: a film", "Convert it to NIfTI", "dcm2niix", "a file a slice"
    )


@pytest.mark.fault("5i", "places that cannot be read")
@pytest.mark.parametrize("broken", [{"0020|9113 SQ": [{}]}, {"0020|9113 SQ": [{"0020|0032 DS": "1\\2"}]}])
def test_frames_whose_places_cannot_be_read(tmp_path, broken):
    frames = [{**grouped(placed((0, 0, k), STRAIGHT)), **(broken if k == 1 else {})} for k in range(3)]
    file = dicom(tmp_path / "p01.dcm", VOXELS, {"5200|9230 SQ": frames}, ENHANCED_CT)
    assert refused(file).startswith("p01.dcm has 3 frames whose places cannot be read. Convert it to NIfTI")


@pytest.mark.fault("5i", "fewer places than frames")
def test_fewer_places_than_frames(tmp_path):
    frames = [grouped(placed((0, 0, k), STRAIGHT)) for k in range(2)]
    file = dicom(tmp_path / "p01.dcm", VOXELS, {"5200|9230 SQ": frames}, ENHANCED_CT)
    assert refused(file).startswith("p01.dcm has 3 frames, 2 with a place: a film")


# a file a slice: what its slices may differ in


@pytest.mark.fault("5i", "a tilted gantry")
@pytest.mark.parametrize("degrees", [20, -12.5, 0.5])
def test_a_straight_rod_stays_straight_in_a_ct_whose_gantry_was_tilted(tmp_path, degrees):
    """SimpleITK/SimpleITK#1128: each slice lies beside the one before it."""
    count, shift = 16, np.tan(np.radians(degrees)) * STEP  # mm from slice to slice
    rod = np.zeros((9, 100, count), np.int16)
    for k in range(count):
        y = round((40.0 - shift * k - 10.0) / 0.5)  # the rod stands at y = 40 mm, slices begin at 10 mm and are shifted
        rod[4, y, k] = 1000
        dicom(
            tmp_path / f"p01/{k * 7 % count}.dcm",
            rod[:, :, k],
            placed((0, 10 + shift * k, STEP * k), STRAIGHT, (0.5, 0.5)),
            number=k,
        )
    facts, image = both(tmp_path / "p01")
    step = (0, shift, STEP)
    tilted = np.column_stack([STRAIGHT[:, :2], step / np.linalg.norm(step)])
    np.testing.assert_allclose(
        facts.affine, grid(tilted, (0.5, 0.5, np.linalg.norm(step)), np.array([0, 10, 0])), atol=1e-6
    )
    upright = Spacing((0.5, 0.5, STEP), mode="bilinear")(image)
    assert upright.shape[-1] == count
    for k in range(count):
        weights = upright[0, :, :, k].numpy()
        y = (weights.sum(0) * np.arange(weights.shape[1])).sum() / weights.sum()
        place = upright.affine.numpy() @ [4, y, k, 1]
        np.testing.assert_allclose(place[:3], (-2, -40, STEP * k), atol=0.3)  # RAS; a pixel is 0.5 mm


def test_a_shift_that_is_the_rounding_of_positions_leaves_the_axes_at_right_angles(tmp_path):
    places = [place + np.array([1e-4 * k, 0, 0]) for k, place in enumerate(straight())]
    facts, _ = both(series(tmp_path / "p01", places))
    np.testing.assert_allclose(facts.affine, grid(STRAIGHT, (*PIXELS, STEP)), atol=1e-6)


def test_the_order_of_files_does_not_matter(tmp_path, monkeypatch):
    """ITK sorts them too, where it can."""
    folder = series(tmp_path / "p01", straight())
    files = sorted(str(file) for file in folder.iterdir())
    for given in (files, files[::-1]):
        monkeypatch.setattr("custom.cohort.formats.itk_image.series_files", lambda _, given=given: given)
        np.testing.assert_array_equal(both(folder)[1][0], VOXELS)


@pytest.mark.fault("5i", "a slice moved sideways")
def test_a_slice_that_moved_sideways(tmp_path):
    places = straight(4)
    places[2] = places[2] + [2.0, 0, 0]
    says(refused(series(tmp_path / "p01", places)), "p01", "unequal distances", "up to 80% off the mean of 2.5 mm")


@pytest.mark.fault("5i", "slices of different rescaling")
@pytest.mark.parametrize(
    "rescales", [((1, -5), (0.5, -5), (2, 1)), ((0.5, 0), (1, 0), (2, 0)), ((1, 0), (1, 0), (1, -70000))]
)
@pytest.mark.parametrize("options", [{}, {"kind": MR}], ids=["CT", "MR"])
def test_each_slice_has_its_own_slope_and_intercept(tmp_path, rescales, options):
    """ITK reads all slices as the first one's type of numbers, and cuts off what does not fit."""
    changes = [{"0028|1053 DS": slope, "0028|1052 DS": intercept} for slope, intercept in rescales]
    _, image = both(series(tmp_path / "p01", straight(), changes, **options))
    expected = np.stack(
        [VOXELS[:, :, k] * float(slope) + intercept for k, (slope, intercept) in enumerate(rescales)], axis=-1
    )
    np.testing.assert_array_equal(image[0], expected)


@pytest.mark.fault("5i", "slices of other types")
def test_slices_of_another_sign_than_the_first(tmp_path):
    folder = series(tmp_path / "p01", straight())
    dicom(folder / "4.dcm", (VOXELS[:, :, 2] - 50).astype(np.int16), placed(straight()[2], STRAIGHT, PIXELS), number=4)
    dicom(folder / "0.dcm", VOXELS[:, :, 0].astype(np.uint16), placed(straight()[0], STRAIGHT, PIXELS), number=0)
    _, image = both(folder)
    np.testing.assert_array_equal(image[0], np.dstack([VOXELS[:, :, :2], VOXELS[:, :, 2] - 50]))


@pytest.mark.fault("5i", "slices of other directions, sizes, pixels, channels")
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (placed(straight()[2], STRAIGHT[:, [0, 2, 1]], PIXELS), "in different directions, up to 90 degrees apart"),
        (placed(straight()[2], STRAIGHT, (0.5, 0.5)), "of pixels of different sizes, (0.5, 0.75) and (0.5, 0.5) mm"),
        ({"0028|0010 US": 2, "7FE0|0010 OW": bytes(20)}, "of different sizes, (5, 4) and (5, 2) pixels"),
        ({"0028|0002 US": 3, "0028|0004 CS": "RGB", "0028|0006 US": 0, "0028|0100 US": 8, "0028|0101 US": 8,
          "0028|0102 US": 7, "0028|0103 US": 0, "7FE0|0010 OW": bytes(60)}, "of different channels, 1 and 3 a pixel"),
    ],
    ids=["direction", "spacing", "size", "channels"],
)  # fmt: skip
def test_slices_that_are_no_volume(tmp_path, change, text):
    says(refused(series(tmp_path / "p01", straight(), [{}, {}, change])), f"p01 has slices {text}", *MIXED)


def test_a_series_with_slices_of_another_thickness_or_number_is_one_series(tmp_path):
    changes = [{"0018|0050 DS": thickness, "0020|0011 IS": thickness} for thickness in (2, 2, 3)]
    facts, image = both(series(tmp_path / "p01", straight(), changes))
    np.testing.assert_array_equal(image[0], VOXELS)
    np.testing.assert_allclose(facts.affine, grid(STRAIGHT, (*PIXELS, STEP)), atol=1e-6)


@pytest.mark.fault("38", "a slice with inverted greys")
def test_a_slice_with_inverted_greys_is_refused(tmp_path):
    """ITK would turn MONOCHROME1 to MONOCHROME2, slice by slice."""
    inverted = {"0028|0004 CS": "MONOCHROME1"}
    text = refused(series(tmp_path / "p01", straight(), [{}, inverted, {}]))
    found = ("p01", "photometric interpretation (0028,0004)", "MONOCHROME1 and MONOCHROME2", "inverted")
    says(text, *found, "Export the series anew", "one for all slices", "convert it to NIfTI", "dcm2niix")
    both(series(tmp_path / "p02", straight(), [inverted] * 3))  # all of them alike are one image


@pytest.mark.fault("38", "pixels without a size, or with that at the detector alone")
@pytest.mark.parametrize(
    ("given", "at"),
    [({}, "no PixelSpacing"), ({"0018|1164 DS": "0.2\\0.3"}, "ImagerPixelSpacing alone, 0.2x0.3 mm at the detector")],
)
def test_pixels_without_a_size_are_a_warning(tmp_path, given, at):
    folder = series(tmp_path / "p01", straight(), [{"0028|0030 DS": None, **given}] * 3)
    facts, _ = both(folder)
    (text,) = facts.warnings
    says(text, "no size of pixels", at, "read as 1x1 mm")
    assert facts.spacing_mm == pytest.approx((1, 1, STEP))
    one = dicom(tmp_path / "p02.dcm", VOXELS[:, :, 0], {**placed(ORIGIN, STRAIGHT), "0028|0030 DS": None, **given})
    assert read(one).warnings == facts.warnings


def test_pixels_of_1_mm_that_a_header_gives_are_no_warning(tmp_path):
    given = [placed(place, STRAIGHT, (1, 1)) for place in straight()]
    assert read(series(tmp_path / "p01", straight(), given)).warnings == ()
    groups = {"5200|9230 SQ": [grouped(placed(ORIGIN, STRAIGHT, (1, 1)))]}
    assert read(dicom(tmp_path / "p02.dcm", VOXELS[:, :, :1], groups, ENHANCED_CT)).warnings == ()


@pytest.mark.parametrize("compressed", [False, True])
def test_an_icon_with_pixels_of_its_own_does_not_end_the_header(tmp_path, monkeypatch, compressed):
    """Items have an undefined length, as many scanners write them."""
    encode = dicom_files._element

    def encoded(key: str, value: Any, explicit: bool) -> bytes:
        if not key.startswith("0088|0200"):
            return encode(key, value, explicit)
        end = [struct.pack("<HHL", 0xFFFE, kind, 0) for kind in (0xE00D, 0xE0DD)]
        pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF if compressed else 4)
        pixels += struct.pack("<HHL", 0xFFFE, 0xE000, 4) * compressed + b"\1\2\3\4" + end[1] * compressed
        start = struct.pack("<HH2sHL", 0x0088, 0x0200, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
            "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
        )
        return start + dicom_files._encoded({"0028|0010 US": 2, "0028|0011 US": 2}) + pixels + end[0] + end[1]

    monkeypatch.setattr(dicom_files, "_element", encoded)
    frames = [grouped(placed((0, 0, 2.5 * k), np.eye(3))) for k in range(VOXELS.shape[2])]
    elements = {"0088|0200 SQ": [], "5200|9230 SQ": frames}
    facts = read(dicom(tmp_path / "p01.dcm", VOXELS, elements, ENHANCED_CT))
    assert facts.spacing_mm == (1, 1, 2.5)
