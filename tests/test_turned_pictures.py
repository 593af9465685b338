"""Pictures whose EXIF says how they are to be turned: read, checked and predicted as viewers show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cohort_files import assert_says, lump, save_grey
from monai.data import MetaTensor
from monai.transforms import LoadImage, SaveImage
from PIL import Image, ImageOps

from custom.cohort.facts import read
from custom.cohort.reader import ScanReader
from custom.inference.writer import GridWriter


def get(path: Path) -> tuple[np.ndarray, dict]:
    reader = ScanReader()
    return reader.get_data(reader.read(path))


ARROW = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40  # rows and columns, no two alike


def turned(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    """A picture that viewers show as ``pixels`` and that is stored in the order of its EXIF orientation."""
    stored = {
        **{1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.swapaxes(0, 1)},
        **{6: np.rot90(pixels), 7: pixels.swapaxes(0, 1)[::-1, ::-1], 8: np.rot90(pixels, -1)},
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(
        path, exif=exif, **({} if path.suffix == ".png" else {"quality": 100})
    )
    with Image.open(path) as opened:  # as Pillow, an independent reader, shows it
        np.testing.assert_allclose(np.asarray(ImageOps.exif_transpose(opened)).astype(int), pixels, atol=3)
    return path


@pytest.mark.fault(
    "31", "each of the 8 EXIF orientations, mirrored ones too, in JPEG and PNG, grey and colour (labelme#1529)"
)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "channels"), [(".jpg", 0), (".png", 0), (".jpg", 3), (".png", 3)])
def test_a_picture_is_read_as_viewers_show_it_and_the_check_says_so(tmp_path, suffix, channels, orientation):
    pixels = np.kron(ARROW, np.ones((8, 8), np.uint8))  # blocks of JPEG
    if channels:
        pixels = np.stack([pixels] * 3, axis=-1)
    path = turned(tmp_path / f"a{suffix}", pixels, orientation)
    voxels, meta = get(path)
    np.testing.assert_allclose(voxels.swapaxes(0, 1).astype(int), pixels, atol=3)
    assert tuple(meta["spatial_shape"]) == (24, 16)
    facts = read(path)
    assert (facts.shape, facts.spacing_mm) == ((24, 16), (1.0, 1.0))
    said = f"turned: stored with EXIF orientation {orientation}, read upright, as viewers show it; its label must be upright too"
    assert (facts.warnings, facts.turned) == ((said,) * (orientation > 1), orientation > 1)


@pytest.mark.parametrize("orientation", [6, 3])
def test_16_bits_and_a_palette_are_turned_too(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=exif)
    Image.fromarray(ARROW).convert("P").save(tmp_path / "palette.png", exif=exif)
    for name, stored in (("deep", deep), ("palette", ARROW)):
        expected = np.rot90(stored, -1) if orientation == 6 else stored[::-1, ::-1]
        found = get(tmp_path / f"{name}.png")[0]
        np.testing.assert_array_equal((found if found.ndim == 2 else found[..., 0]).T, expected)


@pytest.mark.parametrize("orientation", [0, 9, 70])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(ARROW).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(get(tmp_path / "a.png")[0].T, ARROW)
    assert read(tmp_path / "a.png").warnings == ()


def test_a_jpeg_in_cyan_magenta_yellow_and_black_is_read_in_colour(tmp_path):
    pixels = np.kron(np.stack([ARROW, ARROW[::-1], 200 - ARROW], axis=-1), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(get(tmp_path / "a.jpg")[0].swapaxes(0, 1).astype(int), pixels, atol=4)


SHOWN = np.pad(np.full((6, 4), 255, np.uint8), ((2, 8), (3, 17)))  # 16 rows of 24: no turn of it is itself


@pytest.mark.fault("31", "its prediction not on the file's own pixels, or not upright to viewers")
def test_a_prediction_lies_on_the_pixels_of_the_file_and_on_what_viewers_show(tmp_path):
    for orientation in range(1, 9):
        image = turned(tmp_path / f"{orientation}.jpg", SHOWN, orientation)
        pixels = LoadImage(reader=ScanReader, ensure_channel_first=True)(image)
        pred = MetaTensor(torch.where(pixels > 128, 1, 0), meta=pixels.meta)
        SaveImage(tmp_path, "pred", ".png", separate_folder=False, print_log=False, writer=GridWriter)(pred)
        with Image.open(tmp_path / f"{orientation}_pred.png") as written, Image.open(image) as stored:
            np.testing.assert_array_equal(np.asarray(written), np.asarray(stored) // 128)
            np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(written)), SHOWN // 255)
        np.testing.assert_array_equal(get(tmp_path / f"{orientation}_pred.png")[0].T, SHOWN // 255)


@pytest.mark.fault("31", "a label in the order of the stored pixels")
def test_a_label_that_is_not_upright_is_told_how_to_be_drawn(good):
    good.task |= {"dimensions": 2, "label_values": [0, 255]}
    for number, entry in enumerate([e for part in good.parts.values() for e in part]):
        entry["image"] = str(turned(good.folder / f"{number}.png", np.roll(SHOWN, number, 0), 6))
        if "label" in entry:
            entry["label"] = good.picture(f"{number}_mask.png", lump(255, shape=(16, 24)))
    good.check()
    save_grey(good.folder / "1_mask.png", lump(255, shape=(24, 16)))
    assert_says(
        good.faults(),
        "Grids: labelled, p2_1: label 1_mask.png is not on the grid of 1.png: shape 16x24 against 24x16 voxels. Draw it on the "
        "picture as viewers show it, turned as its EXIF orientation says",
    )
