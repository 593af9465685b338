"""Every fault of a cohort's files, made from good ones, is told with its case before the first step.

The good cohort: labelled p1, p2; unlabelled p3; validation p4; test p5; 16 x 16 x 16 voxels of 1 mm, labels 0 and 1.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import nibabel
import numpy as np
import pytest
import torch

from custom.cohort import data_list as cohort
from custom.cohort.check import Check
from custom.cohort.errors import CohortError
from custom.stream.bank import Bank
from custom.stream.stream import Stream

UNREADABLE = "Files that cannot be read (copy them again from their source, or export anew)"

SIZE = (16, 16, 16)
PARTS = {"labelled": ["p1", "p2"], "unlabelled": ["p3"], "validation": ["p4"], "test": ["p5"]}
ONE_CHANNEL = {"channels": ["image"], "classes": ["background", "tumour"], "dimensions": 3}


class Cohort:
    """Good files and the list of them; the methods spoil them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.task = folder, dict(ONE_CHANNEL)
        self.parts: dict[str, list[dict]] = {part: [] for part in PARTS}
        for part, patients in PARTS.items():
            for patient in patients:
                self.add(part, patient)

    def add(self, part: str, patient: str) -> dict:
        entry = {"patient": patient, "image": self.write(f"images/{patient}.nii.gz", noise(patient))}
        if part != "unlabelled":
            entry["label"] = self.write(f"labels/{patient}.nii.gz", lump())
        self.parts[part].append(entry)
        return entry

    def write(self, name: str, voxels: np.ndarray, affine: np.ndarray | None = None) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
        return str(path)

    def picture(self, name: str, voxels: np.ndarray) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        matplotlib.image.imsave(path, voxels) if voxels.ndim == 3 else save_grey(path, voxels)
        return str(path)

    def bytes(self, name: str, change: Callable[[bytearray], bytes | bytearray]) -> None:
        """Replace a file by what ``change`` makes of its bytes."""
        path = self.folder / name
        path.write_bytes(change(bytearray(path.read_bytes())))

    def header(self, name: str, offset: int, form: str, *values: float) -> None:
        """Overwrite bytes of a NIfTI header; the stream's checksum is right."""

        def change(content: bytearray) -> bytes:
            plain = bytearray(gzip.decompress(content))
            struct.pack_into(form, plain, offset, *values)
            return gzip.compress(bytes(plain))

        self.bytes(name, change)

    def check(self, **more: object) -> dict[str, int]:
        return Check(**{**self.task, **more})(self.parts)

    def faults(self, **more: object) -> dict[str, list[str]]:
        """The lines of the error by the kind above them."""
        with pytest.raises(CohortError) as error:
            self.check(**more)
        first, *lines = str(error.value).split("\n")
        assert first == "The scans cannot be used."
        kinds: dict[str, list[str]] = {}
        kind = ""
        for line in lines:
            if line.startswith("    "):
                kinds[kind].append(line.strip())
            else:
                kind = line.strip().rstrip(":")
                kinds[kind] = []
        return kinds


def noise(patient: str, shape: tuple[int, ...] = SIZE) -> np.ndarray:
    return np.random.default_rng(list(patient.encode())).integers(0, 1000, shape).astype(np.int16)


def lump(value: float = 1, dtype: type = np.uint8, shape: tuple[int, ...] = SIZE) -> np.ndarray:
    label = np.zeros(shape, dtype)
    label[4:8, 4:8] = value
    return label


def save_grey(path: Path, voxels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(voxels).save(path)


@pytest.fixture
def good(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path)


def test_good_files_pass_and_are_counted(good, caplog):
    caplog.set_level(logging.INFO)
    assert good.check() == {"labelled": 2, "unlabelled": 1, "validation": 1, "test": 1}
    assert caplog.messages == ["No faults in 5 scans (9 files read, 0 unchanged since an earlier check)."]


# rows with a line for each fault

CUT = [(f"5a {share} %", lambda c, s=share: c.bytes("images/p2.nii.gz", lambda b: b[: len(b) * s // 100]),
        {UNREADABLE: ["labelled, p2: p2.nii.gz is truncated."]}) for share in (10, 50, 99)]  # fmt: skip


def flip(position: float) -> Callable[[bytearray], bytearray]:
    def change(content: bytearray) -> bytearray:
        content[int(position * len(content))] ^= 0b100
        return content

    return change


def rewritten(name: str, voxels: np.ndarray, affine: np.ndarray | None = None) -> Callable[[Cohort], object]:
    return lambda c: c.write(name, voxels, affine)


def affine(spacing: tuple[float, ...] = (1, 1, 1), origin: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = origin
    return matrix


def turned(degrees: float) -> np.ndarray:
    matrix, angle = np.eye(4), np.deg2rad(degrees)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def with_nan(count: int) -> np.ndarray:
    voxels = noise("p2").astype(np.float32)
    voxels.reshape(-1)[:count] = np.nan
    return voxels


def entry(c: Cohort, part: str, number: int, **keys: object) -> None:
    c.parts[part][number].update(keys)


def off_grid(found: str) -> dict[str, list[str]]:
    return {"Grids": [f"labelled, p2: label p2.nii.gz is not on the grid of p2.nii.gz: {found}. "
                      "Draw or export it on the image, or resample it by nearest neighbour"]}  # fmt: skip


def bad_label(found: str) -> dict[str, list[str]]:
    return {"Labels": [f"labelled, p2: label p2.nii.gz {found}"]}


def elsewhere(line: str) -> dict[str, list[str]]:
    return {"One scan in two places": [line]}


LABEL, IMAGE = "labels/p2.nii.gz", "images/p2.nii.gz"

ROWS = [
    *CUT,
    ("5a the label", lambda c: c.bytes(LABEL, lambda b: b[: len(b) // 2]),
     {UNREADABLE: ["labelled, p2: label p2.nii.gz is truncated."]}),
    ("5b one bit", lambda c: c.bytes("images/p5.nii.gz", flip(0.5)),
     {UNREADABLE: [r"test, p5: p5.nii.gz is damaged: .*"]}),
    ("5b the checksum alone", lambda c: c.bytes("images/p3.nii.gz", lambda b: b[:-8] + bytes([b[-8] ^ 1]) + b[-7:]),
     {UNREADABLE: [r"unlabelled, p3: p3.nii.gz is damaged: its checksum does not match."]}),
    ("5c a singular affine", lambda c: c.header(IMAGE, 280, "<4f", 0, 0, 0, 0),
     {UNREADABLE: [r"labelled, p2: p2.nii.gz has a singular affine: .*"]}),
    ("5c an affine that is not finite", lambda c: c.header(IMAGE, 280, "<4f", np.nan, 0, 0, 0),
     {UNREADABLE: [r"labelled, p2: p2.nii.gz has an affine that is not finite: .*"]}),
    ("5d respaced", rewritten(LABEL, lump(), affine((1, 1, 2))),
     off_grid("spacing 1.0x1.0x2.0 against 1.0x1.0x1.0 mm")),
    ("5d shifted", rewritten(LABEL, lump(), affine(origin=(0, 0, 2.5))),
     off_grid(r"origin \(0.0, 0.0, 2.5\) against \(0.0, 0.0, 0.0\) mm")),
    ("5d flipped", rewritten(LABEL, lump(), affine((-1, 1, 1))), off_grid("orientation LAS against RAS")),
    ("5d turned", rewritten(LABEL, lump(), turned(3)), off_grid("direction turned by 3 degrees")),
    ("5d cropped", rewritten(LABEL, lump(shape=(16, 16, 12))), off_grid("shape 16x16x12 against 16x16x16 voxels")),
    ("5d a picture for a volume", rewritten(LABEL, lump(shape=(16, 16))),
     off_grid("shape 16x16 against 16x16x16 voxels")),
    ("5e zero size", lambda c: c.header(IMAGE, 40, "<4h", 3, 16, 0, 16),
     {UNREADABLE: [r"labelled, p2: p2.nii.gz has the size 16x0x16, expected at least one voxel .*"]}),
    ("5e 32767^3 voxels", lambda c: c.header(IMAGE, 40, "<4h", 3, 32767, 32767, 32767),
     {UNREADABLE: [r"labelled, p2: p2.nii.gz has a header that promises 32767x32767x32767 voxels, .*"]}),
    ("5f one voxel", rewritten(IMAGE, with_nan(1)),
     {"Voxels": ["labelled, p2: p2.nii.gz has 1 non-finite voxel of 4096. "
                 "Correct the file, or set fill_nonfinite to true"]}),
    ("5f in a label", rewritten(LABEL, np.where(lump(), np.nan, 0).astype(np.float32)),
     bad_label("has 256 non-finite voxels of 4096. Correct the file")),
    ("5g 255", rewritten(LABEL, lump(255)),
     bad_label(r"has the values {0, 255}, the task names 0..1. Remap 255, or name it under classes and label_values")),
    ("5g -1", rewritten(LABEL, lump(-1, np.int16)), bad_label(r"has the values {-1, 0}, the task names 0..1. Remap -1")),
    ("5g 1.5", rewritten(LABEL, lump(1.5, np.float32)),
     bad_label(r"has the values {0, 1.5}, the task names 0..1. Remap 1.5")),
    ("5g the image as label", rewritten(LABEL, noise("p2")),
     bad_label(r"has more than 64 different values between \d+ and \d+, the task names 0..1. Is it the image\?")),
    ("5g two channels", rewritten(LABEL, lump(shape=(*SIZE, 2))),
     bad_label("has 2 channels, a label has 1: a class number a voxel. Save it so")),
    ("6a nothing labelled", lambda c: c.parts["labelled"].clear(),
     {"The list": ["no labelled scans; at least one is needed. Add entries under 'labelled' in the data list"]}),
    ("6b the same patient", lambda c: entry(c, "test", 0, patient="p1"),
     {"The list": ["patient p1: in training and in test. Keep all scans of a patient in one part"]}),
    ("6b a renamed copy in test", lambda c: shutil.copy(c.folder / IMAGE, c.folder / "images/p5.nii.gz"),
     elsewhere("test, p5: p5.nii.gz holds the same image as p2.nii.gz of labelled, p2. Remove it from training or from test")),
    ("6b written anew as real numbers", rewritten("images/p4.nii.gz", noise("p3").astype(np.float32), affine((1, 1, 1))),
     elsewhere("validation, p4: p4.nii.gz holds the same image as p3.nii.gz of unlabelled, p3. "
               "Remove it from training or from validation")),
    ("6b validation and test", rewritten("images/p5.nii.gz", noise("p4")),
     elsewhere("test, p5: p5.nii.gz holds the same image as p4.nii.gz of validation, p4. "
               "Remove it from validation or from test")),
    ("6b labelled and unlabelled", rewritten("images/p3.nii.gz", noise("p1")),
     elsewhere("unlabelled, p3: p3.nii.gz holds the same image as p1.nii.gz of labelled, p1. "
               "Remove one entry, or set shared_scans to true")),
    ("7 a second channel in the file", rewritten(IMAGE, noise("p2", (*SIZE, 2))),
     {"Channels": [r"labelled, p2: p2.nii.gz: 2 channels, the task names 1 \(image\). "
                   "Correct the file, or channels in the task"]}),
    ("7 an unknown modality", lambda c: entry(c, "unlabelled", 0, image={"imgae": c.parts["unlabelled"][0]["image"]}),
     {"Channels": [r"unlabelled, p3: no such channel: 'imgae' \(did you mean 'image'\?\); the task names image. "
                   "Correct the name in the data list"]}),
    ("7 a picture for a volume", rewritten("images/p3.nii.gz", noise("p3", (128, 128))),
     {"Dimensions": ["unlabelled, p3: p3.nii.gz is a picture of 128x128, the task wants volumes. "
                     "Set dimensions in the task to what the scans are"]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(spoil, expected, id=name, marks=pytest.mark.fault(*name.split(" ", 1)))
        for name, spoil, expected in ROWS
    ],
)
def test_the_fault_is_told_with_its_case_and_nothing_else_is(good, spoil, expected):
    spoil(good)
    found = good.faults()
    assert list(found) == list(expected)
    for kind, patterns in expected.items():
        assert len(found[kind]) == len(patterns)
        for line, pattern in zip(found[kind], patterns, strict=True):
            assert re.fullmatch(pattern, line), line


def test_all_faults_of_all_cases_come_in_one_error(good):
    for name, spoil, _ in ROWS:
        if name in ("5b one bit", "5b the checksum alone", "5d shifted", "6b validation and test"):
            spoil(good)
    good.write("labels/p1.nii.gz", lump(7))
    good.parts["labelled"].append({"patient": "p6", "image": str(good.folder / "p6.nii.gz")})
    found = good.faults()
    assert {kind: [line.split(": ")[0] for line in lines] for kind, lines in found.items()} == {
        "The list": ["labelled, p6", "labelled, p6"],  # no label, no image
        UNREADABLE: ["unlabelled, p3"],
        "Labels": ["labelled, p1"],
        "Grids": ["labelled, p2"],
        "One scan in two places": ["test, p5"],
    }


# what is no fault


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Beside the closing line."""
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    return [line for line in lines if not line.startswith("INFO No faults in")]


@pytest.mark.fault("5c", "a spacing of 0.01 mm")
def test_an_odd_spacing_of_many_scans_is_one_warning(good, caplog):
    for part, patients in PARTS.items():
        for patient in patients:
            good.write(f"images/{patient}.nii.gz", noise(patient), affine((0.01, 1, 1)))
            if part != "unlabelled":
                good.write(f"labels/{patient}.nii.gz", lump(), affine((0.01, 1, 1)))
    good.check()
    (warning,) = told(caplog)
    assert warning.startswith(
        "WARNING 5 scans (labelled, p1; labelled, p2; unlabelled, p3; ...), the first: p1.nii.gz: "
    )
    assert "0.01" in warning


@pytest.mark.fault("5d", "a picture with a label of the same size")
def test_pictures_are_compared_by_size_alone(good):
    good.task |= {"dimensions": 2, "channels": ["red", "green", "blue"], "label_values": [0, 255]}
    for part in good.parts:
        for e in good.parts[part]:
            e["image"] = good.picture(
                f"{e['patient']}.png", np.random.default_rng(int(e["patient"][1])).random((20, 30, 3))
            )
            if part != "unlabelled":
                e["label"] = good.picture(f"{e['patient']}_mask.png", lump(255, shape=(20, 30)))
    lines = good.faults()["Channels"]  # matplotlib saves a fourth channel, opacity
    assert lines[0] == ("labelled, p1: p1.png: 4 channels, the task names 3 (red, green, blue). Save it without "
                        "transparency")  # fmt: skip
    for part in good.parts:
        for e in good.parts[part]:
            save_grey(
                Path(e["image"]), np.random.default_rng(int(e["patient"][1])).integers(0, 255, (20, 30, 3), np.uint8)
            )
    good.check()
    good.picture("p1_mask.png", lump(255, shape=(20, 31)))
    assert list(good.faults()) == ["Grids"]
    good.picture("p1_mask.png", lump(1, shape=(20, 30)))
    assert good.faults() == {"Labels": ["labelled, p1: label p1_mask.png has the values {0, 1}, the task names {0, 255}. "
                                        "Remap 1, or name it under classes and label_values"]}  # fmt: skip


@pytest.mark.fault("5d", "a modality on another grid")
def test_a_modality_on_another_grid_is_named_with_the_first(good):
    good.task |= {"channels": ["flair", "t1ce"]}
    two_modalities(good)
    good.write("p2_t1ce.nii.gz", noise("x2"), affine((1, 1, 1.5)))
    assert good.faults() == {"Grids": ["labelled, p2: p2_t1ce.nii.gz is not on the grid of p2.nii.gz: spacing 1.0x1.0x1.5 "
                                       "against 1.0x1.0x1.0 mm. Resample all modalities to one grid"]}  # fmt: skip


def two_modalities(good: Cohort) -> None:
    for part in good.parts:
        for e in good.parts[part]:
            name = e["patient"]
            e["image"] = {"flair": e["image"], "t1ce": good.write(f"{name}_t1ce.nii.gz", noise(f"x{name[1]}"))}


@pytest.mark.fault("5f", "voxels filled on demand")
def test_non_finite_voxels_that_are_filled_are_a_warning(good, caplog):
    good.write(IMAGE, with_nan(3))
    good.check(fill_nonfinite=True)
    assert told(caplog) == ["WARNING labelled, p2: p2.nii.gz has 3 non-finite voxels of 4096, filled when read"]


@pytest.mark.fault("5f", "in a label, although images are filled")
def test_labels_are_never_filled(good, caplog):
    good.write(LABEL, np.where(lump(), np.nan, 0).astype(np.float32))
    assert good.faults(fill_nonfinite=True) == bad_label("has 256 non-finite voxels of 4096. Correct the file")
    assert caplog.messages == []


@pytest.mark.fault("5h", "a label without foreground")
def test_empty_labels_are_counted(good, caplog):
    caplog.set_level(logging.INFO)
    good.write(LABEL, lump(0))
    good.check()
    assert told(caplog) == ["INFO labelled: 1 of 2 labels are empty (p2)"]


@pytest.mark.fault("5h", "a class that no labelled scan has")
def test_a_class_that_nobody_has_is_a_warning(good, caplog):
    good.check(classes=["background", "tumour", "oedema"])
    assert told(caplog) == ["WARNING labelled: no scan has the class 2 oedema: it cannot be learnt"]


@pytest.mark.fault("6a", "one labelled scan, batches of four")
def test_a_labelled_stream_of_one_case_draws_whole_batches(good):
    del good.parts["labelled"][1], good.parts["unlabelled"][:]
    assert good.check()["labelled"] == 1
    bank = Bank(good.parts["labelled"], lambda case: {"image": torch.ones(1, *SIZE), "label": torch.zeros(1, *SIZE)})
    assert Stream(bank, batch=4, patch=(8, 8, 8)).draw().cases == ("p1",) * 4


@pytest.mark.fault("6b", "one scan twice in one part")
def test_one_scan_twice_in_a_part_is_a_warning(good, caplog):
    good.write("images/p2.nii.gz", noise("p1"))
    good.check()
    assert told(caplog) == ["WARNING labelled, p2: p2.nii.gz holds the same image as p1.nii.gz of labelled, p1"]


@pytest.mark.fault("6b", "one scan labelled and unlabelled, allowed")
@pytest.mark.parametrize("same_file", [True, False])
def test_a_scan_may_be_labelled_and_unlabelled_where_that_is_allowed(good, caplog, same_file):
    copy = {"image": good.parts["labelled"][0]["image"], "patient": "p1"} if same_file else {}
    good.parts["unlabelled"][0].update(copy)
    if not same_file:
        good.write("images/p3.nii.gz", noise("p1"))
    good.check(shared_scans=True)
    assert caplog.messages == []
    assert len(good.faults()) == 1


@pytest.mark.fault("6b", "a patient's scan in training and in test")
def test_a_scan_that_the_list_names_twice_is_told_once(good):
    good.parts["test"][0] |= good.parts["labelled"][0]
    assert good.faults() == {
        "The list": ["patient p1: in training and in test. Keep all scans of a patient in one part"]
    }


@pytest.mark.fault("6b", "one scan in four places")
def test_each_copy_is_told_once_and_a_fault_before_a_warning(good, caplog):
    good.add("validation", "p6")
    for patient in ("p2", "p4", "p6"):
        good.write(f"images/{patient}.nii.gz", noise("p1"))
    (lines,) = good.faults().values()
    assert [line.split(". ")[0] for line in lines] == [
        "validation, p4: p4.nii.gz holds the same image as p1.nii.gz of labelled, p1",
        "validation, p6: p6.nii.gz holds the same image as p1.nii.gz of labelled, p1",
    ]
    assert caplog.messages == ["labelled, p2: p2.nii.gz holds the same image as p1.nii.gz of labelled, p1"]


@pytest.mark.fault("5f", "an image without a finite voxel")
@pytest.mark.parametrize("fill", [False, True])
def test_an_image_without_a_finite_voxel_is_refused_even_where_voxels_are_filled(good, fill):
    good.write("images/p1.nii.gz", np.full(SIZE, np.nan, np.float32))
    assert good.faults(fill_nonfinite=fill) == {
        "Voxels": ["labelled, p1: p1.nii.gz has no finite voxel. Remove the entry"]
    }


def test_a_blank_image_is_a_warning(good, caplog):
    good.write("images/p1.nii.gz", np.full(SIZE, 7, np.int16))
    good.check()
    assert told(caplog) == ["WARNING labelled, p1: p1.nii.gz is blank: it is 7 all over"]


def test_scans_of_a_part_that_is_not_read_and_never_was_are_counted(good, caplog):
    caplog.set_level("INFO")
    test = good.parts.pop("test")
    good.check(unread={"test": test})
    note = "test: 1 scan never read by a check, so copies of them are not found; `python -m custom.cohort check LIST` reads them"
    assert note in caplog.messages


def test_blank_images_are_not_copies_of_each_other(good):
    for patient in ("p2", "p4"):
        good.write(f"images/{patient}.nii.gz", np.zeros(SIZE, np.uint8))
    good.check()


@pytest.mark.fault("6b", "a renamed copy in a part that training does not read")
def test_the_test_part_is_compared_by_what_the_record_knows_of_it_and_not_opened(good, tmp_path):
    record = tmp_path / "list.checked.json"
    good.write("images/p5.nii.gz", noise("p2"))
    test = {"test": good.parts.pop("test")}
    good.check(unread=test, record=record)  # nothing is known of it yet
    assert "p5.nii.gz" not in record.read_text()
    Check(**good.task, needs=(), record=record)(test)
    assert good.faults(unread=test, record=record) == elsewhere(
        "test, p5: p5.nii.gz holds the same image as p2.nii.gz of labelled, p2. Remove it from training or from test"
    )


def test_a_patient_of_a_part_that_is_not_read_is_compared_and_its_files_may_be_elsewhere(good):
    test = {"test": [{"patient": "p1", "image": "/nowhere/p1.nii.gz", "label": "/nowhere/label.nii.gz"}]}
    del good.parts["test"]
    assert good.faults(unread=test) == {
        "The list": ["patient p1: in training and in test. Keep all scans of a patient in one part"]
    }


@pytest.mark.fault("6c", "unlabelled scans with labels that are absent or corrupt")
def test_labels_of_unlabelled_scans_are_never_opened(good, monkeypatch):
    corrupt = good.folder / "corrupt.nii.gz"
    corrupt.write_bytes(b"no scan")
    good.parts["unlabelled"][0]["label"] = str(good.folder / "absent.nii.gz")
    good.add("unlabelled", "p6")["label"] = str(corrupt)
    check, opened = Check(**good.task), []
    facts = check.record.facts
    monkeypatch.setattr(check.record, "facts", lambda files, workers: opened.extend(files) or facts(files, workers))
    check(good.parts)
    assert {Path(file).name for file in opened} == {f"p{i}.nii.gz" for i in range(1, 7)}
    assert sum("/labels/" in file for file in opened) == 4  # p1, p2, p4, p5


@pytest.mark.fault("7", "a missing modality")
def test_a_missing_modality_is_counted_in_training_and_refused_in_evaluation(good, caplog):
    caplog.set_level(logging.INFO)
    good.task |= {"channels": ["flair", "t1ce"]}
    two_modalities(good)
    del good.parts["labelled"][0]["image"]["t1ce"], good.parts["unlabelled"][0]["image"]["flair"]
    good.check()
    assert told(caplog) == [
        "INFO labelled: 1 of 2 scans lack t1ce (p1)",
        "INFO unlabelled: 1 of 1 scans lack flair (p3_t1ce)",
    ]
    text = "1 of 2 channels (flair, t1ce); missing {}. Add the file to the entry, or remove the entry"
    assert good.faults(missing_channels=False) == {
        "Channels": [f"labelled, p1: {text.format('t1ce')}", f"unlabelled, p3_t1ce: {text.format('flair')}"]}  # fmt: skip
    del good.parts["test"][0]["image"]["t1ce"]
    assert good.faults() == {"Channels": [f"test, p5: {text.format('t1ce')}"]}
    assert not any("test" in message for message in caplog.messages)


@pytest.mark.fault("7", "a missing modality, networks that read one each")
def test_where_modalities_stand_alone_none_is_missed_anywhere_and_how_many_are_is_told(good, caplog):
    caplog.set_level(logging.INFO)
    good.task |= {"channels": ["flair", "t1ce"], "modalities_alone": True}
    two_modalities(good)
    del good.parts["unlabelled"][0]["image"]["flair"], good.parts["test"][0]["image"]["t1ce"]
    good.check()
    assert told(caplog) == [
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
    assert good.faults() == {"Channels": [
        'test, p5_t1ce: p5_t1ce.nii.gz: 1 channel, the task names 2 (flair, t1ce). Say which of them it is: in a data list '
        '"image": {"flair": ...}, in inference --modality flair']}  # fmt: skip


@pytest.mark.fault("7", "all modalities missing")
def test_a_scan_without_any_modality_is_refused_everywhere(good):
    good.parts["unlabelled"][0]["image"] = {}
    assert good.faults() == {"The list": ["unlabelled, p3: no image; expected a path, or a path for each modality"]}


@pytest.mark.fault("7", "a modality's file with two channels")
def test_a_modality_is_one_channel(good):
    good.parts["labelled"][1]["image"] = {"image": good.write(IMAGE, noise("p2", (*SIZE, 2)))}
    assert good.faults() == {"Channels": [
        "labelled, p2: p2.nii.gz has 2 channels, a modality's file has 1. Give a file for each modality"]}  # fmt: skip


@pytest.mark.fault("7", "a list of files of another number")
def test_of_a_list_of_files_the_channels_are_counted(good):
    good.task |= {"channels": ["flair", "t1ce"]}
    two_modalities(good)
    for part in good.parts:
        for e in good.parts[part]:
            e["image"] = list(e["image"].values())
    good.check()
    good.parts["test"][0]["image"].pop()
    assert good.faults() == {"Channels": [
        'test, p5: p5.nii.gz: 1 channel, the task names 2 (flair, t1ce). Give a file for each: "image": '
        '{"flair": ..., "t1ce": ...}']}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "shape", "text"),
    [
        ({"dimensions": 2}, SIZE, "is a volume of 16x16x16, the task wants pictures. Set slices to true in the task: "
         "the network then sees a volume slice by slice"),
        ({"dimensions": 2, "slices": True}, (9, 9), "is a picture of 9x9, the task wants volumes. "
         "Set slices to false in the task"),
    ],
)  # fmt: skip
@pytest.mark.fault("7", "scans of another number of axes")
def test_dimensions_are_those_that_the_network_sees(good, task, shape, text):
    good.task |= task
    good.parts = {"labelled": [], "unlabelled": good.parts["unlabelled"]}
    good.write("images/p3.nii.gz", noise("p3", shape))
    assert good.faults(needs=()) == {"Dimensions": [f"unlabelled, p3: p3.nii.gz {text}"]}


def test_slices_and_3d_networks_want_volumes(good):
    for task in ({"dimensions": 2, "slices": True}, {"dimensions": 3}, {"dimensions": None}):
        good.check(**task)


@pytest.mark.fault("12", "a case named as an expression")
def test_a_case_named_as_an_expression_is_a_string(good, monkeypatch):
    monkeypatch.chdir(good.folder)
    nasty = "$__import__('os').mkdir('ran')"
    name = f"{nasty}.nii.gz"
    good.parts["unlabelled"][0] |= {"patient": nasty, "image": good.write(name, noise("p3", (9, 9)))}
    (line,) = good.faults()["Dimensions"]
    assert line.startswith(f"unlabelled, {nasty}: {nasty}.nii.gz is a picture")
    assert not (good.folder / "ran").exists()


# the command


def write_list(good: Cohort, **more: object) -> Path:
    (good.folder / "list.json").write_text(json.dumps({**good.parts, **more}))
    return good.folder / "list.json"


def task_file(folder: Path, text: str = "") -> Path:
    (folder / "task.yaml").write_text(text or json.dumps(ONE_CHANNEL))
    return folder / "task.yaml"


def test_the_command_prints_what_there_is_and_keeps_a_record_beside_the_list(good, capsys):
    path, task = write_list(good), task_file(good.folder)
    for files in ("9 files read, 0 unchanged", "0 files read, 9 unchanged"):
        cohort.main(["check", str(path), "--task", str(task)])
        out = re.sub(r"\d+\.\d s", "1.0 s", capsys.readouterr().out)
        assert out == (
            f"{path}\n"
            "  labelled   2 scans of 2 patients: 16 x 16 x 16 voxels of 1 x 1 x 1 mm\n"
            "  unlabelled 1 scan of 1 patient: 16 x 16 x 16 voxels of 1 x 1 x 1 mm\n"
            "  validation 1 scan of 1 patient: 16 x 16 x 16 voxels of 1 x 1 x 1 mm\n"
            "  test       1 scan of 1 patient: 16 x 16 x 16 voxels of 1 x 1 x 1 mm\n"
            f"No faults in 5 scans (1.0 s; {files} since an earlier check).\n"
        )
    assert cohort.record_path(path).is_file()


def test_the_command_without_a_record_leaves_no_file(good, capsys):
    cohort.main(["check", str(write_list(good)), "--no-record"])
    assert sorted(p.name for p in good.folder.iterdir()) == ["images", "labels", "list.json"]


def test_the_command_tells_faults_of_the_list_and_of_the_files_at_once(good, capsys):
    good.bytes(IMAGE, lambda b: b[:-90])
    Path(good.parts["test"][0]["label"]).unlink()
    del good.parts["labelled"][0]["label"]
    path = write_list(good)
    with pytest.raises(CohortError) as error:
        cohort.main(["check", str(path), "--task", str(task_file(good.folder))])
    assert str(error.value) == (
        f"3 faults in {path}\n"
        "  The list:\n"
        "    labelled, p1: no label; only unlabelled scans may lack one\n"
        f"    test, p5: {good.folder}/labels/p5.nii.gz does not exist\n"
        "  Files that cannot be read (copy them again from their source, or export anew):\n"
        "    labelled, p2: p2.nii.gz is truncated."
    )
    assert "labelled   2 scans of 2 patients: 16 x 16 x 16" in capsys.readouterr().out


@pytest.mark.parametrize("fingerprint", [None, {"channels": ["image"], "label_values": [0, 1]}])
def test_without_a_task_the_command_judges_by_the_fingerprint_or_the_first_scan(good, fingerprint):
    good.write("labels/p1.nii.gz", lump(7))
    good.write("labels/p2.nii.gz", lump(-1, np.int16))
    good.write("images/p3.nii.gz", noise("p3", (*SIZE, 2)))
    with pytest.raises(CohortError) as error:
        cohort.main(["check", str(write_list(good, **({"fingerprint": fingerprint} if fingerprint else {})))])
    lines = [line.strip() for line in str(error.value).split("\n")]
    assert any(line.startswith("unlabelled, p3: p3.nii.gz: 2 channels, the task names 1 (image)") for line in lines)
    expected = "the task names 0..1" if fingerprint else "labels are whole numbers from 0"
    assert f"labelled, p2: label p2.nii.gz has the values {{-1, 0}}, {expected}. Remap -1" in lines
    assert any("has the values {0, 7}" in line for line in lines) == bool(fingerprint)


def test_a_list_for_evaluation_alone_needs_no_labelled_scans(good, capsys):
    for part in ("labelled", "unlabelled", "validation"):
        good.parts[part].clear()
    cohort.main(["check", str(write_list(good))])
    assert "No faults in 1 scan " in capsys.readouterr().out
    good.parts["test"].clear()
    with pytest.raises(CohortError, match="no labelled scans"):
        cohort.main(["check", str(write_list(good))])


@pytest.mark.parametrize("text", ["[1, 2]", "channels: [image]", "channels: image\nclasses: [a, b]", "a: [", "{}"])
def test_what_is_no_task_file_is_refused(good, text):
    with pytest.raises(CohortError, match=r"--task .*task\.yaml"):
        cohort.main(["check", str(write_list(good)), "--task", str(task_file(good.folder, text))])
    with pytest.raises(CohortError, match=r"--task .*absent\.yaml cannot be read"):
        cohort.main(["check", str(write_list(good)), "--task", str(good.folder / "absent.yaml")])
