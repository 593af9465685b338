"""Cohorts as they come, through ``python -m custom.cohort make`` and ``check``.

A row is a situation that someone reported, and what the two commands say of it. A new report becomes a row.
"""

from __future__ import annotations

import codecs
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from dicom_files import dicom, placed
from monai.bundle import ConfigParser
from monai.transforms import LoadImage
from nibabel.orientations import axcodes2ornt, ornt_transform
from PIL import Image
from saying import says

from custom.cohort.__main__ import main
from custom.cohort.case import Case, Task
from custom.cohort.facts import read
from custom.cohort.formats.counts import whole
from custom.cohort.reader import ScanReader
from custom.errors import UserError

SHAPE = (8, 8, 8)
RAS, LPS = np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])
TASK = "channels: [image]\nclasses: [background, tumour]\ndimensions: 3\norientation: RAS\n"


@dataclass(frozen=True)
class Situation:
    """Images and labels p1, p2 that ``spoil`` makes odd; ``made`` and ``checked`` are in what the commands print, or, behind
    ``error: ``, in what they are refused with.

    Where no list can be made, one written by hand is checked.

    Args:
        then: what is done to the files between both commands.
        folder: that holds all, below the working folder; ``~`` is that folder.
        task: judge by a task file.
    """

    spoil: Callable[[Path], object] = lambda _: None
    made: str = "labelled   2 scans of 2 patients"
    checked: str = "No faults in 2 scans"
    then: Callable[[Path], object] = lambda _: None
    folder: str = "data"
    task: bool = False


def noise(patient: str) -> np.ndarray:
    return np.random.default_rng(list(patient.encode())).integers(1, 1000, SHAPE).astype(np.int16)


def lump() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 2:5, 2:6] = 1
    return label


def save(file: Path, voxels: np.ndarray, affine: np.ndarray = RAS) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), file)


def label(values: float, kind: Any = np.float32, name: str = "p2.nii.gz") -> Callable[[Path], object]:
    return lambda folder: save(folder / "labels" / name, (lump() * kind(values)).astype(kind))


def hundred() -> np.ndarray:
    return np.resize(np.arange(100), SHAPE).astype(np.uint8)


def rounded_off(folder: Path) -> None:
    """A label as a resampling or a lossy compression leaves it: next to no two voxels alike."""
    save(folder / "labels/p2.nii.gz", (lump() + np.resize(np.linspace(-5e-4, 5e-4, 200), SHAPE)).astype(np.float32))


def rescaled(folder: Path) -> None:
    """A label of 127 and a slope of 1/127, as some programs store what they hold as real numbers."""
    save(folder / "labels/p2.nii", lump().astype(np.int16) * 127)
    (folder / "labels/p2.nii.gz").unlink()
    content = bytearray((folder / "labels/p2.nii").read_bytes())
    struct.pack_into("<f", content, 112, 1 / 127)
    (folder / "labels/p2.nii").write_bytes(content)


def nrrd(kind: str) -> Callable[[Path], object]:
    """Image and label p2, byte by byte: ITK's Python writes no such type."""

    def spoil(folder: Path) -> None:
        for part, voxels in (("images", noise("p2") % 100), ("labels", lump())):
            (folder / part / "p2.nii.gz").unlink()
            header = (
                f"NRRD0004\ntype: {kind}\ndimension: 3\nspace: right-anterior-superior\nsizes: 8 8 8\n"
                "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nendian: little\nencoding: raw\n\n"
            )
            (folder / part / "p2.nrrd").write_bytes(header.encode() + voxels.astype(kind).tobytes("F"))

    return spoil


def tensors(folder: Path) -> None:
    nrrd("int16")(folder)
    header, _ = (folder / "images/p2.nrrd").read_bytes().split(b"\n\n", 1)
    for old, new in (
        (b"dimension: 3", b"dimension: 4"),
        (b"sizes:", b"sizes: 5"),
        (b"directions:", b"directions: none"),
    ):
        header = header.replace(old, new)
    voxels = np.ones((5, *SHAPE), np.int16)
    (folder / "images/p2.nrrd").write_bytes(header + b"\nkinds: vector domain domain domain\n\n" + voxels.tobytes())


def pictures(pixels: Callable[[Path, np.ndarray], object], value: int = 1) -> Callable[[Path], object]:
    """Pictures in place of both volumes."""

    def spoil(folder: Path) -> None:
        for patient in ("p1", "p2"):
            for part in ("images", "labels"):
                (folder / part / f"{patient}.nii.gz").unlink()
            pixels(folder / f"images/{patient}.png", noise(patient)[0])
            Image.fromarray(lump()[2].astype(np.uint16) * value).save(folder / f"labels/{patient}.png")

    return spoil


def colours_of_16_bits(file: Path, grey: np.ndarray) -> None:
    rows = np.stack([grey * 60, grey * 30, grey], -1).astype(">u2")
    png(file, grey.shape, 16, 2, [row.tobytes() for row in rows])


def labels_of_4_bits(folder: Path) -> None:
    """Two pixels a byte."""
    pictures(lambda file, grey: Image.fromarray(grey.astype(np.uint8)).save(file))(folder)
    for patient in ("p1", "p2"):
        rows = lump()[2]
        png(folder / f"labels/{patient}.png", rows.shape, 4, 0, [bytes(row[::2] * 16 + row[1::2]) for row in rows])


def png(file: Path, shape: tuple[int, ...], bits: int, colour: int, rows: list[bytes]) -> None:
    """A PNG written by its specification: Pillow does not write grey of fewer than 8 bits, or colours of more."""
    raw = b"".join(b"\0" + row for row in rows)
    head = struct.pack(">IIBBBBB", *shape[::-1], bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    parts = (struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def other_formats(folder: Path) -> None:
    """p1 as NRRD, p2 as a DICOM series, whose axes run to L and P; the labels stay NIfTI."""
    image = itk.image_from_array(np.ascontiguousarray(noise("p1").T))
    image.SetDirection(itk.matrix_from_array(LPS[:3, :3]))
    itk.imwrite(image, str(folder / "images/p1.nrrd"))
    for k in range(8):
        file = folder / f"images/p2/{k * 5 % 8}.dcm"
        dicom(file, noise("p2")[::-1, ::-1, k], placed((-7, -7, k), np.eye(3)), number=k)
    for patient in ("p1", "p2"):
        (folder / f"images/{patient}.nii.gz").unlink()
    turned(folder / "labels/p2.nii.gz", "LPS")


def turned(file: Path, code: str) -> None:
    """The same body in another order of voxels."""
    image = nib.load(file)
    nib.save(image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code))), file)


def mixed(folder: Path) -> None:
    for part in ("images", "labels"):
        turned(folder / part / "p2.nii.gz", "LPS")


def unplaced(folder: Path) -> None:
    for file in folder.rglob("p*.nii.gz"):
        nib.save(nib.Nifti1Image(np.asarray(nib.load(file).dataobj), None), file)


def two_transforms(folder: Path) -> None:
    """The label is of a tool that reads the qform."""
    image, moved = nib.Nifti1Image(noise("p2"), RAS), RAS + np.array([[0, 0, 0, 5]] + [[0] * 4] * 3)
    image.set_sform(RAS, code=1)
    image.set_qform(moved, code=1)
    nib.save(image, folder / "images/p2.nii.gz")
    save(folder / "labels/p2.nii.gz", lump(), moved)


def replaced(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "images/p2.nii.gz").write_bytes(content)


def nowhere(folder: Path) -> None:
    (folder / "images/p2.nii.gz").unlink()
    (folder / "images/p2.nii.gz").symlink_to("../.git/annex/objects/x/p2.nii.gz")


def with_mark(folder: Path) -> None:
    """A list and a task as Windows' editor saves them."""
    for file in (folder / "list.json", folder / "task.yaml"):
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())


POINTER = "p2.nii.gz is a pointer of Git LFS ... `git lfs pull`."
LINK = "p2.nii.gz is a link of git-annex ... `datalad get` (or `git annex get`)"
SITUATIONS = {
    "nothing odd": Situation(),
    # values
    "labels of 1.0000001": Situation(label(1.0000001), "label      1 in 2 of 2 labels"),
    "labels of 0.9995": Situation(label(0.9995, np.float64), "label      1 in 2 of 2 labels"),
    "labels of 200 numbers within 0.0005 of 0 and 1": Situation(rounded_off, "label      1 in 2 of 2 labels"),
    "an image of 0 to 0.0008, as of diffusion in mm^2/s": Situation(
        lambda folder: save(folder / "images/p2.nii.gz", noise("p2").astype(np.float32) * 8e-7), "channel    image: 2.4e-06 to "),
    "labels with scl_slope 1/127": Situation(rescaled, "label      1 in 2 of 2 labels"),
    "labels of 1.3": Situation(label(1.3), "warning    p2: label values that are not all whole numbers >= 0",
        "error: label p2.nii.gz has the values {0, 1.3}, the task names 0..1. Remap 1.3"),
    "labels of 100000.4, which six digits would show as whole": Situation(label(100000.4, np.float64),
        checked="error: label p2.nii.gz has the values {0, 100000.4}, the task names 0..1. Remap 100000.4"),
    "labels of 100 classes, for a task of two": Situation(lambda folder: save(folder / "labels/p2.nii.gz", hundred()),
        "warning    p2: label values that are not all whole numbers >= 0, or over 64",
        "error: label p2.nii.gz has more than 64 different values between 0 and 99 ... names 0..1 ... Is it the image?"),
    "int64 NRRD": Situation(nrrd("int64"), "label      1 in 2 of 2 labels"),
    "int8 NRRD, as 3D Slicer saves segments": Situation(nrrd("int8"), "label      1 in 2 of 2 labels"),
    "16-bit RGB PNG": Situation(pictures(colours_of_16_bits), "channel    red: "),
    "labels in PNG of 4 bits": Situation(labels_of_4_bits,
        "warning    p1, p2: PNG of 4 bits ... 0 to 15 are read as 0 to 255 ... 17 times as large ... save a label in 8 bits"),
    "PNG labels beyond 255": Situation(pictures(lambda file, grey: Image.fromarray(grey.astype(np.uint16)).save(file), 500),
        "label      500 in 2 of 2 labels"),
    "NRRD with 5 numbers a voxel": Situation(tensors,
        *["error: p2.nrrd has 5 numbers a voxel ... expected at most 4 ... save each in a file"] * 2),
    # geometry
    "MONAI#1711: NRRD and DICOM images with NIfTI labels": Situation(other_formats,
        checked="orientation of the volumes: 1 LPS, 1 RAS (labelled, p1)"),
    "nnUNet#2897: scans of two orientations": Situation(mixed,
        checked="orientation of the volumes: 1 LPS, 1 RAS (labelled, p1) ... turned to RAS", task=True),
    "scans of two orientations, and no task that turns them": Situation(mixed,
        checked="warning: labelled, p1: axes run to RAS ... 1 scan to LPS ... no orientation in the task"),
    "spinalcordtoolbox#2106: a label by the other transform of its image": Situation(two_transforms,
        "warning    p2: sform and qform differ: the sform is used",
        "error: the other's sform and qform differ ... sform is used ... by the other both lie on one grid ... Copy the header "
        "of p2.nii.gz ... the voxels as they are"),
    "voxels of 35 micron": Situation(lambda folder: [save_micron(folder / part / "p2.nii.gz") for part in ("images", "labels")],
        "warning    p2: unit micron: voxel sizes of 35x35x35 are read as 0.035x0.035x0.035 mm"),
    "NIfTI files without sform and qform": Situation(unplaced, "warning    p1, p2: NIfTI without orientation: the header",
        "warning: 2 scans (labelled, p1; labelled, p2), the first: p1.nii.gz: NIfTI without orientation: "),
    # names and files
    "a label P1 beside an image p1": Situation(
        lambda folder: (folder / "labels/p1.nii.gz").rename(folder / "labels/P1.nii.gz"),
        "warning    1 label without an image ... not used: P1. ... case or blanks ... in P1 and p1 ... both one name"),
    "a label that fits no image": Situation(label(1, name="p9.nii.gz"), "warning    1 label without an image, not used: p9\n"),
    "a pointer of Git LFS": Situation(replaced(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        f"error: labelled, p2: {POINTER}", f"error: labelled, p2: {POINTER}"),
    "datalad#3513: a link to content that was not fetched": Situation(nowhere, f"error: labelled, p2: {LINK}.",
        f"error: /{LINK}"),
    "a folder with spaces, umlauts and a #": Situation(folder="Größe #2, 'ä'"),
    "python-fire#452: a folder called 2024": Situation(folder="2024"),
    "a ~ that the shell left": Situation(folder="~"),
    "a list and a task with a byte-order mark": Situation(then=with_mark, task=True),
}  # fmt: skip


def save_micron(file: Path) -> None:
    image = nib.Nifti1Image(np.asarray(nib.load(file).dataobj), np.diag([35.0, 35.0, 35.0, 1.0]))
    image.header["xyzt_units"] = 3
    nib.save(image, file)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints, or, behind ``error: ``, what it is refused with."""
    try:
        main(words)
    except UserError as error:
        return f"error: {error}"
    return capsys.readouterr().out


def assert_says(text: str, expected: str) -> None:
    """In ``expected``, ``...`` is any text."""
    kind, sentence = ("error: ", expected[7:]) if expected.startswith("error: ") else ("", expected)
    assert text.startswith("error: ") == bool(kind), text
    if sentence:
        says(text, *sentence.split(" ... "))
    assert len(text) < 1500, "no library's own text"


@pytest.mark.fault("35", "cohorts through make and check")
@pytest.mark.parametrize("name", SITUATIONS)
def test_a_cohort_as_it_comes_is_right_or_refused(tmp_path, monkeypatch, capsys, name):
    case = SITUATIONS[name]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = Path(case.folder).expanduser()
    for patient in ("p1", "p2"):
        save(folder / f"images/{patient}.nii.gz", noise(patient))
        save(folder / f"labels/{patient}.nii.gz", lump())
    (folder / "task.yaml").write_text(TASK)
    case.spoil(folder)
    where = {key: f"{case.folder}/{file}" for key, file in
             {"images": "images", "labels": "labels", "out": "list.json", "task": "task.yaml"}.items()}  # fmt: skip
    made = said(capsys, "make", *(f"--{key}={where[key]}" for key in ("images", "labels", "out")))
    assert_says(made, case.made)
    assert (folder / "list.json").exists() != made.startswith("error: ")
    if made.startswith("error: "):
        files = [[str(file.absolute()) for file in sorted((folder / part).iterdir())] for part in ("images", "labels")]
        entries = [{"image": image, "label": label} for image, label in zip(*files, strict=True)]
        (folder / "list.json").write_text(json.dumps({"labelled": entries}))
    case.then(folder)
    checked = said(capsys, "check", where["out"], *([f"--task={where['task']}"] if case.task else []))
    assert_says(checked, case.checked)


@pytest.mark.fault("35", "scans of two orientations and formats in one training (nnUNet#2897, MONAI#1711)")
def test_scans_of_two_orientations_and_formats_reach_a_training_as_one_array(tmp_path, bundle_cwd):
    """nnUNet#2897; Project-MONAI/MONAI#1711."""
    bundle_cwd(ROOT / "bundles/supervised")
    from scripts.stream.bank import Bank

    for patient in ("p0", "p1", "p2"):
        save(tmp_path / f"images/{patient}.nii.gz", noise("one body"))
        save(tmp_path / f"labels/{patient}.nii.gz", lump() if patient == "p0" else lump() * np.float32(0.9999))
    mixed(tmp_path)
    (tmp_path / "images/p1.nii.gz").unlink()
    for k in range(8):
        dicom(
            tmp_path / f"images/p1/{k}.dcm", noise("one body")[::-1, ::-1, k], placed((-7, -7, k), np.eye(3)), number=k
        )
    parser = ConfigParser(ConfigParser.load_config_file("configs/train.yaml"))
    parser["spacing_mm"], parser["label_values"], parser["classes"] = [-1] * 3, [0, 1], ["background", "tumour"]
    files = [("p0", "p0.nii.gz"), ("p1", "p1"), ("p2", "p2.nii.gz")]
    entries = [{"patient": p, "image": str(tmp_path / "images" / file), "label": str(tmp_path / f"labels/{p}.nii.gz")}
               for p, file in files]  # fmt: skip
    first, *others = Bank(entries, parser.get_parsed_content("preprocessing"))
    for other in others:
        np.testing.assert_array_equal(other["image"], first["image"])
        np.testing.assert_array_equal(other["label"], first["label"])
    np.testing.assert_array_equal(first["label"][0], lump())


def test_real_numbers_are_no_whole_ones():
    for image in (np.linspace(0, 9, 512), np.array([0, 1, 2.5]), np.array([0, np.nan, 1.0000001])):
        assert whole(image) is image


def test_a_label_of_as_many_classes_as_the_task_names_is_one(tmp_path):
    save(tmp_path / "a.nii.gz", noise("a"))
    save(tmp_path / "b.nii.gz", hundred())
    case = Case("labelled", "a", "a", {"image": str(tmp_path / "a.nii.gz")}, str(tmp_path / "b.nii.gz"))
    facts = {file: read(file) for file in case.paths()}
    task = Task(channels=("image",), values=tuple(range(100)), axes=3)
    assert list(task.faults(case, facts)) == []


@pytest.mark.fault("42", "an image of small numbers beside a 1, and a label of more numbers than classes")
def test_an_image_is_never_rounded_and_a_label_of_many_numbers_is(tmp_path):
    image, label = np.resize([0, 8e-4, 9e-4], SHAPE), lump() + np.resize(np.linspace(-5e-4, 5e-4, 200), SHAPE)
    image[0, 0, 0] = 1.0
    np.testing.assert_array_equal(whole(label), lump())
    save(tmp_path / "a.nii", image.astype(np.float32))
    save(tmp_path / "b.nii", lump().astype(np.float32) * 0.9999)
    np.testing.assert_allclose(LoadImage(reader=ScanReader)(tmp_path / "a.nii"), image.astype(np.float32), rtol=1e-6)
    np.testing.assert_array_equal(LoadImage(reader=ScanReader, whole=True)(tmp_path / "b.nii"), lump())
    found = read(tmp_path / "a.nii")
    assert found.percentiles[0][1] == pytest.approx(8e-4)
    assert read(tmp_path / "b.nii").values == ((0, int((lump() == 0).sum())), (1, int(lump().sum())))


@pytest.mark.fault("42", "grey PNG of 2 and 4 bits")
@pytest.mark.parametrize(("bits", "factor"), [(1, 255), (2, 85), (4, 17), (8, 1)])
def test_greys_of_few_bits_are_warned_of(tmp_path, bits, factor):
    png(tmp_path / "a.png", (2, 8 // bits), bits, 0, [b"\1", b"\0"])
    facts = read(tmp_path / "a.png")
    assert [value for value, _ in facts.values] == [0, factor]
    most = 2**bits - 1
    expected = (
        f"PNG of {bits} bits: its greys 0 to {most} are read as 0 to 255, {factor} times as large; save a label in 8 bits",
    )
    assert facts.warnings == (expected if bits in (2, 4) else ())
