"""Images that do not fit in memory, by custom/inference/in_pieces.py: what the task's transforms make of them as a whole."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, LoadImaged, MapLabelValued, Orientationd, Resized, ScaleIntensityRanged, Spacingd
from saying import raises
from test_slabs import AFFINES, Waves

from custom.cohort import mapped as mapping
from custom.cohort import scaling
from custom.cohort.formats import ScanFault, streamed
from custom.cohort.mapped import mapped
from custom.cohort.reader import ScanReader
from custom.cohort.scaling import ScalePercentilesd
from custom.files import FileError
from custom.inference import in_pieces
from custom.inference.ahead import AheadDataLoader
from custom.inference.in_pieces import InPieces, read_in_pieces, steps
from custom.inference.label_map import LabelMapd
from custom.inference.slabs import LogitSlabs

SHAPE = (23, 31, 27)
PERCENTILES = ScalePercentilesd("image", lower=0.5, upper=99.5, b_min=0.0, b_max=1.0, clip=True, channel_wise=True)
RANGE = ScaleIntensityRanged("image", a_min=-100, a_max=900, b_min=0.0, b_max=1.0, clip=True)
TURN = Orientationd(
    ["image", "label"], axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")), allow_missing_keys=True
)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Pieces of a few planes each, in numbers that do not divide the volume."""
    monkeypatch.setattr(in_pieces, "TILE", 4 * 31 * 27 + 1)
    monkeypatch.setattr(streamed, "AT_ONCE", 5 * 23 * 31)
    monkeypatch.setattr(scaling, "AT_ONCE", 1000)


def preprocessing(*steps: Any, **options: Any) -> Compose:
    load = LoadImaged("image", reader=ScanReader(**options), ensure_channel_first=True)
    label = LoadImaged("label", reader=ScanReader, whole=True, ensure_channel_first=True, allow_missing_keys=True)
    values = MapLabelValued("label", [0, 1], [0, 1], allow_missing_keys=True)
    return Compose([load, label, TURN, values, *steps])


def spacing(*size_mm: float) -> Spacingd:
    return Spacingd(["image", "label"], pixdim=size_mm, mode=["bilinear", "nearest"], allow_missing_keys=True)


def written(path: Path, affine: np.ndarray, kind: type = np.int16, slope: float = 1.0, **options: Any) -> str:
    voxels = np.random.default_rng(len(path.name)).integers(0, 200, options.get("shape", SHAPE)).astype(kind)
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_slope_inter(slope, 0 if slope == 1 else -7.3)
    nib.save(image, path)
    if slope != 1:  # nibabel scales what it saves: the stored numbers are others, the slope is there
        assert nib.load(path).dataobj.slope != 1
    return str(path)


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    one, other = found["image"], expected["image"]
    assert isinstance(one, MetaTensor)
    torch.testing.assert_close(one.as_tensor(), other.as_tensor(), rtol=0, atol=0)
    assert torch.equal(one.affine, other.affine)
    assert {key: str(value) for key, value in one.meta.items()} == {
        key: str(value) for key, value in other.meta.items()
    }
    plain = [[{**op, "id": 0} for op in image.applied_operations] for image in (one, other)]
    assert str(plain[0]) == str(plain[1])


@pytest.mark.parametrize("scale", [PERCENTILES, RANGE], ids=["percentiles", "range"])
@pytest.mark.parametrize(("name", "kind", "slope"), [("p1.nii", np.int16, 1.0), ("p1.nii.gz", np.int16, 0.37),
                                                     ("p1.nii.gz", np.uint8, 1.0), ("p1.nii", np.uint8, 0.01)])  # fmt: skip
@pytest.mark.parametrize("affine", AFFINES)
def test_without_resampling_an_image_is_that_of_the_whole_to_the_bit(tmp_path, affine, name, kind, slope, scale):
    file = written(tmp_path / name, AFFINES[affine], kind, slope)
    transform = preprocessing(scale)
    same(read_in_pieces({"image": file}, transform, tmp_path), transform({"image": file}))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.5, 1.5, -1), (0.5, 0.5, 0.9), (1.3, 0.7, 2.0)], ids=str)
@pytest.mark.parametrize("affine", AFFINES)
def test_a_resampled_image_is_that_of_the_whole(tmp_path, affine, spacing_mm):
    file = written(tmp_path / "p1.nii.gz", AFFINES[affine])
    transform = preprocessing(spacing(*spacing_mm), PERCENTILES)
    found, expected = read_in_pieces({"image": file}, transform, tmp_path), transform({"image": file})
    torch.testing.assert_close(found["image"].as_tensor(), expected["image"].as_tensor(), rtol=0, atol=3e-7)
    found["image"].copy_(expected["image"].as_tensor())
    same(found, expected)


def test_files_of_several_channels_and_a_fourth_axis(tmp_path):
    for name in ("a.nii", "b.nii.gz"):
        written(tmp_path / name, AFFINES["other order"], slope=0.37)
    written(tmp_path / "c.nii", AFFINES["mirrored"], shape=(*SHAPE, 2))
    transform = preprocessing(spacing(1.5, 1.5, 1.5), PERCENTILES)
    for image in ([str(tmp_path / "a.nii"), str(tmp_path / "b.nii.gz")], str(tmp_path / "c.nii")):
        found, expected = read_in_pieces({"image": image}, transform, tmp_path), transform({"image": image})
        assert len(found["image"]) == 2
        torch.testing.assert_close(found["image"].as_tensor(), expected["image"].as_tensor(), rtol=0, atol=3e-7)
        found["image"].copy_(expected["image"].as_tensor())
        same(found, expected)


@pytest.mark.parametrize(
    "values", [(np.nan, -5.0, np.inf), (-np.inf, 3.0, 4.0), (np.nan, np.nan, np.nan), (0.5, 1, 2)], ids=str
)
def test_voxels_that_are_not_finite_are_filled_alike(tmp_path, values):
    voxels = np.resize(np.array([*values] if np.isnan(values[1]) else [*values, *range(9)], np.float32), SHAPE)
    nib.save(nib.Nifti1Image(voxels, AFFINES["mirrored"]), tmp_path / "p1.nii")
    transform = preprocessing(RANGE, fill_nonfinite=True)
    same(
        *(
            read({"image": str(tmp_path / "p1.nii")})
            for read in (lambda e: read_in_pieces(e, transform, tmp_path), transform)
        )
    )


def test_what_is_nearly_all_background_is_scaled_alike(tmp_path, monkeypatch):
    voxels = np.zeros(SHAPE, np.int16)
    voxels[:2, :3, :4] = np.arange(24).reshape(2, 3, 4)
    nib.save(nib.Nifti1Image(voxels, AFFINES["straight"]), tmp_path / "p1.nii")
    transform = preprocessing(PERCENTILES)
    monkeypatch.setattr(scaling, "COPIED", 1000)
    same(
        *(
            read({"image": str(tmp_path / "p1.nii")})
            for read in (lambda e: read_in_pieces(e, transform, tmp_path), transform)
        )
    )


def test_the_label_map_is_that_of_the_whole(tmp_path):
    file = written(tmp_path / "p1.nii.gz", AFFINES["tilted gantry"], slope=0.37)
    transform = preprocessing(spacing(1.5, 1.5, 1.5), PERCENTILES)
    inferer = SlidingWindowInferer((12, 12, 12), sw_batch_size=4, overlap=0.25, mode="gaussian")
    to_map = LabelMapd(transform, [0, 1, 2, 300])
    maps = []
    for data in (read_in_pieces({"image": file}, transform, tmp_path), transform({"image": file})):
        maps.append(to_map({**data, "pred": LogitSlabs(data["image"][None], Waves(), inferer)})["pred"])
    assert torch.equal(*(found.as_tensor() for found in maps))
    assert maps[0].shape[1:] == SHAPE


def test_which_preprocessing_can_be_done_in_pieces():
    assert steps(preprocessing(PERCENTILES))
    assert steps(preprocessing(spacing(1, 1, 1), PERCENTILES, RANGE))
    assert not steps(preprocessing(PERCENTILES, spacing(1, 1, 1)))
    assert not steps(preprocessing(spacing(1, 1, 1), spacing(2, 2, 2)))
    assert not steps(preprocessing(Resized("image", (9, 9, 9), mode="area")))
    assert not steps(Compose([LoadImaged("image"), PERCENTILES]))


# the file that it lies in


def test_the_temporary_file_has_no_name_and_its_size_is_told(tmp_path, caplog):
    caplog.set_level("INFO")
    found = mapped((2, 300, 500), tmp_path / "cache", "p1.nii")
    assert [found.shape, found.dtype, found.flags.c_contiguous, found.any()] == [(2, 300, 500), np.float32, True, False]
    assert os.listdir(tmp_path / "cache") == []
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"p1.nii: 1.2 MB as a temporary file in {tmp_path}/cache (")
    assert line.endswith(" free), for the time that it is segmented.")
    found[1, 7] = 3
    mapping.release_pages()
    assert found.sum() == 3 * 500
    before = len(mapping._maps)
    del found
    gc.collect()
    assert len(mapping._maps) == before - 1, "the space is free again"


@pytest.mark.fault("46", "no space for the file that an image is read into")
def test_a_disk_without_space_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(mapping.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    found = ("p1.nii does not fit in memory", "1.2 MB", f"temporary file in {tmp_path}", "1.0 MB free")
    with raises(FileError, *found, "cache_dir with more space", "more memory_gb"):
        mapped((2, 300, 500), tmp_path, "p1.nii")
    monkeypatch.undo()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapping.os, "posix_fallocate", full)
    with pytest.raises(FileError, match=r"p1.nii .* temporary file in .*: No space left on device\. Give a cache_dir"):
        mapped((2, 300, 500), tmp_path, "p1.nii")
    assert os.listdir(tmp_path) == []


@pytest.mark.fault("46", "a file that ends while it is read in pieces")
def test_a_reading_that_fails_half_way_leaves_nothing(tmp_path):
    file = Path(written(tmp_path / "p1.nii", AFFINES["straight"]))
    file.write_bytes(file.read_bytes()[: 23 * 31 * 27])
    gc.collect()
    maps = len(mapping._maps)
    with pytest.raises(ScanFault, match=r"^p1.nii cannot be read: Whoops, not enough data in file"):
        read_in_pieces({"image": str(file)}, preprocessing(PERCENTILES), tmp_path / "out")
    gc.collect()
    assert os.listdir(tmp_path / "out") == []
    assert len(mapping._maps) == maps


# in a run


def test_large_scans_alone_are_read_in_pieces_and_the_last_prediction_is_waited_for(tmp_path):
    files = [[written(tmp_path / f"{name}{n}.nii", AFFINES["mirrored"]) for n in range(2)] for name in "ab"]
    transform, waited = preprocessing(PERCENTILES), []
    saving = SimpleNamespace(finish=lambda: waited.append(True))
    data = InPieces([{"image": pair} for pair in files], transform, lambda file: file == files[1][0], saving,
                    output_dir="eval", root=tmp_path)  # fmt: skip
    gc.collect()
    before = len(mapping._maps)
    small, large = data[0]["image"], data[1]["image"]
    assert (len(waited), len(mapping._maps)) == (1, before + 1)
    same({"image": large}, transform({"image": files[1]}))
    same({"image": small}, transform({"image": files[0]}))
    assert (tmp_path / "eval").is_dir()


def test_a_batch_of_one_is_a_view(tmp_path):
    transform = preprocessing(PERCENTILES)
    entry = {**transform({"image": written(tmp_path / "p1.nii", AFFINES["mirrored"])}), "modality": "t1"}
    one, stock = (next(iter(AheadDataLoader([entry], batch_size=1, **options)))
                  for options in ({}, {"collate_fn": in_pieces_stock}))  # fmt: skip
    assert one["image"].data_ptr() == entry["image"].data_ptr() != stock["image"].data_ptr()
    assert torch.equal(one["image"].as_tensor(), stock["image"].as_tensor())
    assert str(one["image"].meta) == str(stock["image"].meta)
    assert (one["image"].is_batch, one["image"].spatial_ndim) == (True, stock["image"].spatial_ndim)
    assert one["image"].applied_operations == stock["image"].applied_operations
    assert one["modality"] == stock["modality"]
    two = next(iter(AheadDataLoader([entry, entry], batch_size=2)))
    assert two["image"].shape == (2, 1, *SHAPE)


def in_pieces_stock(batch: list) -> Any:
    from monai.data.utils import list_data_collate

    return list_data_collate(batch)
