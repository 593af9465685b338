"""The bank keeps what the transforms give, reads it once, and never touches what it was not asked to read."""

from __future__ import annotations

import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)
from PIL import Image

from custom.stream.bank import Bank
from custom.stream.scan import foreground_table


def write(path, array, spacing_mm=1.0):
    """A NIfTI file with cubic voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([spacing_mm] * 3 + [1.0])), path)
    return str(path)


def loader(keys=("image", "label")):
    return Compose([LoadImaged(keys), EnsureChannelFirstd(keys)])


def ramp(*shape):
    """Values 0, 1, 2, ... each voxel its own (float16 counts to 2048)."""
    return np.arange(np.prod(shape)).reshape(shape)


def volume_case(folder, name="p01", shape=(6, 5, 4), offset=0):
    label = np.zeros(shape)
    label[1:3, 2, 1] = 1
    label[4, 4, 3] = 2
    image = write(folder / "images" / f"{name}_ED.nii.gz", ramp(*shape) + offset)
    return {"patient": name, "image": image, "label": write(folder / "labels" / f"{name}_ED.nii.gz", label)}


def test_a_case_comes_back_as_it_was_written(tmp_path):
    case = volume_case(tmp_path)
    item = Bank([case], loader())[0]
    expected = torch.from_numpy(ramp(6, 5, 4)).float()[None]
    torch.testing.assert_close(item["image"], expected, rtol=0, atol=0)
    assert type(item["image"]) is torch.Tensor  # no MetaTensor
    assert item["image"].dtype == torch.float32
    assert item["label"].shape == (1, 6, 5, 4)
    assert item["label"].dtype == torch.uint8
    assert item["label"].sum() == 1 + 1 + 2
    assert item["case"] == "p01_ED"
    assert item["present"].tolist() == [True]


def test_the_usual_preprocessing_runs_before_the_bank(tmp_path):
    """6 voxels of 2 mm span 10 mm between their centres: 11 voxels of 1 mm. Intensities end in [0, 1]."""
    image = write(tmp_path / "a.nii.gz", ramp(6, 5, 4), spacing_mm=2)
    label = write(tmp_path / "b.nii.gz", ramp(6, 5, 4) % 3, spacing_mm=2)
    both = ("image", "label")
    steps = [
        LoadImaged(both),
        EnsureChannelFirstd(both),
        Spacingd(both, pixdim=(1, 1, 1), mode=("bilinear", "nearest")),
        ScaleIntensityRangePercentilesd("image", 1, 99, 0, 1, clip=True),
    ]
    case = Bank([{"image": image, "label": label}], Compose(steps))[0]
    assert case["image"].shape == (1, 11, 9, 7)
    assert (case["image"].min(), case["image"].max()) == (0, 1)
    assert case["label"].unique().tolist() == [0, 1, 2]


def test_constructing_reads_nothing_and_a_case_is_read_once(tmp_path):
    reads = []
    load = loader()

    def counting(case):
        reads.append(case)
        return load(case)

    bank = Bank([volume_case(tmp_path)], counting)
    assert (len(bank), reads) == (1, [])
    assert len(bank.items) == 1
    assert bank[0]["image"].shape == (1, 6, 5, 4)
    bank.load()
    assert len(reads) == 1


def test_the_unlabelled_stream_never_reads_a_label(tmp_path):
    case = volume_case(tmp_path) | {"label": "/no/such/label.nii.gz"}
    seen = []
    load = loader(("image",))

    def spying(sample):
        seen.append(set(sample))
        return load(sample)

    bank = Bank([case], spying, keys=("image",), name="unlabelled")
    assert "label" not in bank[0]
    assert seen == [{"image"}]
    assert bank.crops(torch.tensor([0]), torch.tensor([[3, 3, 2]]), (2, 2, 2))[1] is None


def test_slices_are_items_and_a_case_stays_whole(tmp_path):
    data = [volume_case(tmp_path, "p01"), volume_case(tmp_path, "p02", offset=200)]
    bank = Bank(data, loader(), slices=True)
    assert bank.items.tolist() == [[case, plane] for case in (0, 1) for plane in range(4)]
    assert bank.shape(0) == (6, 5)
    assert bank.item_name(6) == "p02_ED slice 2"
    assert bank[0]["image"].shape == (1, 6, 5, 4)
    assert bank[0]["label"].shape == (1, 6, 5, 4)
    image, label = bank.crops(torch.tensor([1, 6]), torch.tensor([[3, 2], [3, 2]]), (6, 5))
    assert label is not None
    torch.testing.assert_close(image[0, 0], bank[0]["image"][0, ..., 1])
    torch.testing.assert_close(image[1, 0], bank[1]["image"][0, ..., 2])
    torch.testing.assert_close(label[0, 0], bank[0]["label"][0, ..., 1])


def test_a_missing_modality_is_zero_and_marked(tmp_path):
    flair, t1ce = (write(tmp_path / f"p01_{name}.nii.gz", ramp(4, 3, 2) + 1) for name in ("flair", "t1ce"))
    label = write(tmp_path / "seg.nii.gz", np.ones((4, 3, 2)))
    cases = [
        {"image": {"t1ce": t1ce, "flair": flair}, "label": label},
        {"image": {"t1ce": t1ce}, "label": label},
        {"image": {"flair": flair, "t1ce": None}, "label": label},
    ]
    bank = Bank(cases, loader(), channels=("flair", "t1ce"))
    values = torch.from_numpy(ramp(4, 3, 2) + 1).float()
    for index, present in enumerate([[True, True], [False, True], [True, False]]):
        case = bank[index]
        assert case["present"].tolist() == present
        torch.testing.assert_close(case["image"], torch.stack([values * there for there in present]))
    assert [bank.case_name(index) for index in range(3)] == ["p01_flair", "p01_t1ce", "p01_flair-2"]
    assert bank.present(torch.tensor([2, 0])).tolist() == [[True, False], [True, True]]


def test_channels_follow_the_task_not_the_file(tmp_path):
    first, second = (write(tmp_path / f"{value}.nii.gz", np.full((3, 3, 3), value)) for value in (1, 2))
    case = {"image": {"a": first, "b": second}}
    bank = Bank([case], loader(("image",)), keys=("image",), channels=("b", "a"))
    assert bank[0]["image"][:, 0, 0, 0].tolist() == [2, 1]


def test_a_case_without_any_of_the_channels_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"case p07_t2: has the modalities \['t2'\], the task's channels are: flair"):
        Bank([{"patient": "p07", "image": {"t2": "t2.nii"}}], loader(), keys=("image",), channels=("flair",)).load()


def test_all_faulty_cases_are_told_at_once():
    with pytest.raises(ValueError, match=r"(?s)case a: no label.*case b: no label.*add a path below 'label'"):
        Bank([{"image": "a.nii.gz"}, {"image": "b.nii.gz"}], loader()).load()


def test_rgb_images_have_three_channels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(tmp_path / "mask.png")
    both = ("image", "label")
    transform = Compose([LoadImaged(both, reader="ITKReader"), EnsureChannelFirstd(both)])
    data = [{"image": str(tmp_path / "a.png"), "label": str(tmp_path / "mask.png")}]
    case = Bank(data, transform, channels=("red", "green", "blue"))[0]
    torch.testing.assert_close(case["image"], torch.from_numpy(pixels).permute(2, 1, 0).float())  # ITK: x first
    torch.testing.assert_close(case["label"][0], torch.from_numpy(pixels[..., 0] > 99).T.byte())


def test_an_empty_bank_is_usable():
    bank = Bank([], loader(), slices=True, channels=("flair", "t1ce"))
    assert (len(bank), bank.items.shape, bank.num_channels) == (0, (0, 2), 2)
    image, label = bank.crops(torch.zeros(0, dtype=torch.long), torch.zeros(0, 2, dtype=torch.long), (8, 8))
    assert label is not None
    assert (image.shape, label.shape) == ((0, 2, 8, 8), (0, 1, 8, 8))
    assert bank.digest() == Bank([], loader()).digest()


def test_threads_change_nothing(tmp_path):
    data = [volume_case(tmp_path, f"p{index:02d}", offset=index) for index in range(6)]
    alone, threads = (Bank(data, loader(), workers=workers) for workers in (0, 2))
    assert alone.digest() == threads.digest()
    for index in range(6):
        one, other = alone[index], threads[index]
        assert one.pop("case") == other.pop("case") == f"p{index:02d}_ED"
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_broken_file_is_named(tmp_path):
    case = volume_case(tmp_path, "p02")
    (tmp_path / "images" / "p02_ED.nii.gz").write_bytes(b"no image")
    for workers in (0, 2):
        bank = Bank([volume_case(tmp_path, "p01"), case], loader(), workers=workers)
        with pytest.raises(RuntimeError, match=r"case p02_ED: cannot use \S*p02_ED.nii.gz.*: ImageFileError") as error:
            bank.load()
        assert error.value.__cause__ is not None


@pytest.mark.parametrize(
    ("image", "label", "text"),
    [
        (np.full((3, 3, 3), 1e6), np.zeros((3, 3, 3)), "do not fit float16.*ScalePercentilesd"),
        (np.full((3, 3, 3), np.nan), np.zeros((3, 3, 3)), "not finite"),
        (np.zeros((3, 3, 3)), np.full((3, 3, 3), 0.5), r"label has the values \[0.5\]"),
        (np.zeros((3, 3, 3)), np.full((3, 3, 3), 256), r"label has the values \[256.0\]"),
        (np.zeros((3, 3, 3)), np.full((3, 3, 3), -1), r"label has the values \[-1.0\]"),
        (np.zeros((3, 3, 3)), np.zeros((3, 3, 2)), r"label \(1, 3, 3, 2\) does not fit the image \(1, 3, 3, 3\)"),
    ],
)
def test_what_compact_tensors_cannot_hold_is_refused(tmp_path, image, label, text):
    case = {"image": write(tmp_path / "a.nii.gz", image), "label": write(tmp_path / "b.nii.gz", label)}
    with pytest.raises(RuntimeError, match=text):
        Bank([case], loader()).load()


def test_a_wrong_number_of_channels_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match=r"the image has 1 channels .* expected 2: flair, t1ce"):
        Bank([volume_case(tmp_path)], loader(), channels=("flair", "t1ce")).load()


def test_crops_are_padded_with_zeros_and_begin_half_a_box_before_the_centre(tmp_path):
    bank = Bank([volume_case(tmp_path)], loader())
    whole = bank[0]["image"][0] + 1  # told apart from padding
    bank._scan(0).image += 1
    image, label = bank.crops(torch.tensor([0, 0, 0]), torch.tensor([[3, 2, 2], [0, 0, 0], [6, 5, 4]]), (4, 3, 2))
    assert label is not None
    torch.testing.assert_close(image[0, 0], whole[1:5, 1:4, 1:3])
    torch.testing.assert_close(label[0, 0], bank[0]["label"][0, 1:5, 1:4, 1:3])
    torch.testing.assert_close(image[1, 0, 2:, 1:, 1:], whole[:2, :2, :1])
    assert image[1].count_nonzero() == 2 * 2 * 1
    torch.testing.assert_close(image[2, 0, :2, :1, :1], whole[4:, 4:, 3:])
    assert image[2].count_nonzero() == 2 * 1 * 1
    far, _ = bank.crops(torch.tensor([0]), torch.tensor([[-50, 90, 2]]), (4, 3, 2))
    assert far.count_nonzero() == 0


def test_a_box_of_other_dimensions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="items have 3 spatial axes"):
        Bank([volume_case(tmp_path)], loader()).crops(torch.tensor([0]), torch.tensor([[1, 1]]), (2, 2))


def test_foreground_positions_are_those_of_the_label():
    label = torch.randint(0, 4, (5, 7, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (table,) = foreground_table(label, slices=False)
    assert set(table) == {1, 2, 3}
    for kind, positions in table.items():
        assert positions.tolist() == (label.flatten() == kind).nonzero().squeeze(1).tolist()
    for plane, of_plane in zip(label, foreground_table(label, slices=True), strict=True):
        for kind, positions in of_plane.items():
            assert positions.tolist() == (plane.flatten() == kind).nonzero().squeeze(1).tolist()


def test_foreground_positions_are_thinned_evenly():
    """10 of 1,000 voxels: every hundredth."""
    (table,) = foreground_table(torch.ones(10, 10, 10, dtype=torch.uint8), slices=False, limit=10)
    assert table[1].tolist() == list(range(0, 1000, 100))
    assert table[1].dtype == torch.int32


def test_the_digest_follows_content_and_order_not_the_folder(tmp_path):
    data = [volume_case(tmp_path / "here", "p01"), volume_case(tmp_path / "here", "p02", offset=1)]
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    moved = [{key: value.replace("/here/", "/there/") for key, value in case.items()} for case in data]
    digest = Bank(data, loader()).digest()
    assert len(digest) == 64
    assert Bank(moved, loader()).digest() == digest
    assert Bank(data[::-1], loader()).digest() != digest
    assert Bank(data[:1], loader()).digest() != digest
    write(tmp_path / "here" / "labels" / "p02_ED.nii.gz", np.zeros((6, 5, 4)))
    assert Bank(data, loader()).digest() != digest


def test_names_are_unique_and_name_the_patient():
    data = [
        {"patient": "p1", "image": "x/p10_ED.nii.gz"},  # p1 is not p10
        {"patient": "la_017", "image": "x/la_017.nrrd"},
        {"patient": "la_017", "image": "y/la_017.nrrd"},
        {"image": "scan.v2.png"},
    ]
    bank = Bank(data, loader(("image",)), keys=("image",))
    assert bank.names == ["p1_p10_ED", "la_017", "la_017-2", "scan.v2"]


def test_loading_tells_how_much_is_in_memory(tmp_path, caplog):
    """Two cases of 200,000 voxels of 2 + 1 bytes."""
    data = [volume_case(tmp_path, f"p{index}", (500, 100, 4)) for index in range(2)]
    transform = Compose([*loader().transforms, ScaleIntensityRangePercentilesd("image", 0, 100, 0, 1)])
    with caplog.at_level(logging.INFO, logger="custom.stream.bank"):
        Bank(data, transform, slices=True).load()
    assert caplog.messages == ["labelled: 2 scans, 8 slices, 1.2 MB in memory on cpu"]
