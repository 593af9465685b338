"""The promises of custom/cohort/formats/other.py and itk_image.py: pictures, NRRD, MetaImage, DICOM series."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zlib

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from dicom_files import dicom, placed
from monai.data import ITKReader
from monai.transforms import LoadImage
from PIL import Image
from saying import says
from scan_files import SPACING, VOXELS, affine_ras, fault, numbered, picture, write_itk, write_nifti, write_series

from custom.cohort.facts import read
from custom.cohort.formats import ScanFault
from custom.cohort.reader import ScanReader

# other formats


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd", "p01"])
def test_other_formats_are_read_as_monai_reads_them(tmp_path, name):
    path = write_itk(tmp_path / name, VOXELS) if "." in name else write_series(tmp_path / name, VOXELS)
    facts, loaded = read(path), LoadImage(reader=ITKReader, ensure_channel_first=True)(path)
    np.testing.assert_allclose(facts.affine, loaded.affine, atol=1e-12)
    np.testing.assert_allclose(facts.affine, affine_ras(), atol=1e-6)
    np.testing.assert_allclose(facts.spacing_mm, SPACING, atol=1e-6)
    assert (facts.shape, facts.channels, facts.dtype) == ((5, 4, 3), 1, "int16")
    assert facts.voxels == read(write_nifti(tmp_path / "same.nii", VOXELS)).voxels
    assert facts.warnings == ()


def test_bytes_of_a_series_are_digested_in_the_order_of_names(tmp_path):
    folder = write_series(tmp_path / "p01", VOXELS)
    raw = b"".join(file.read_bytes() for file in sorted(folder.iterdir()))
    assert read(folder).sha256 == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "RGB"), ("a.jpg", "RGB"), ("a.png", "L"), ("a.jpg", "L"), ("a.png", "1")]
)
def test_pictures(tmp_path, name, mode):
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / name, dpi=(300, 300))
    facts, loaded = read(tmp_path / name), LoadImage(reader=ScanReader, ensure_channel_first=True)(tmp_path / name)
    assert (facts.shape, facts.channels, facts.dtype) == ((30, 20), 3 if mode == "RGB" else 1, "uint8")
    assert (facts.channels, *facts.shape) == loaded.shape
    assert facts.spacing_mm == (1.0, 1.0)
    assert facts.warnings == ()
    if mode == "1":
        assert [value for value, _ in facts.values] == [0.0, 255.0]


def test_a_flipped_bit_of_a_png_is_found_by_its_checksum(tmp_path):
    raw = bytearray(picture(tmp_path / "a.png").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(raw)
    assert fault(tmp_path / "a.png") == "a.png is damaged: its checksum does not match."


def test_a_jpeg_may_be_padded(tmp_path):
    file = picture(tmp_path / "a.jpg")
    facts = read(file)
    file.write_bytes(file.read_bytes() + bytes(100))
    assert read(file).voxels == facts.voxels


@pytest.mark.parametrize("options", [{}, {"transparency": 3}], ids=["alpha", "one value"])
def test_grey_with_transparency_is_refused_for_itk_misreads_it(tmp_path, options):
    grey = Image.fromarray(numbered(8, 9, dtype=np.uint8))
    (grey if options else Image.merge("LA", [grey, grey])).save(tmp_path / "a.png", **options)
    assert fault(tmp_path / "a.png") == "a.png is grey with transparency; save it without."


def test_voxels_beside_a_header(tmp_path):
    file = write_itk(tmp_path / "a.mhd", VOXELS)
    good, raw = read(file), (tmp_path / "a.raw").read_bytes()
    (tmp_path / "a.raw").write_bytes(bytes(len(raw)))
    assert read(file).sha256 != good.sha256
    (tmp_path / "a.raw").write_bytes(raw[:-1])
    assert fault(file) == "a.mhd is truncated: its header promises 120 bytes of voxels."
    (tmp_path / "a.raw").unlink()
    assert "a.mhd has its voxels in a.raw, which is not there." in fault(file)
    text = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\nendian: little\ndata file: a.raw\n"
    (tmp_path / "a.raw").write_bytes(raw)
    (tmp_path / "a.nrrd").write_bytes(text)
    assert fault(tmp_path / "a.nrrd") == "a.nrrd keeps its voxels in another file; save both in one."


def test_compressed_meta_voxels_of_more_than_the_promised_length_or_without_their_checksum(tmp_path):
    file = write_itk(tmp_path / "a.mha", numbered(20, 20, 20), compression=True)
    header, voxels = file.read_bytes().split(b"LOCAL\n", 1)
    for length in (1, 4):  # of the checksum
        file.write_bytes(header + b"LOCAL\n" + voxels[:-length])
        assert "is truncated" in fault(file)
    file.write_bytes(header + b"LOCAL\n" + zlib.compress(bytes(2**24)))
    fault(file)


# units


def nrrd(path, *entries: str):
    """VOXELS of 5 along each axis, in any unit, byte by byte: ITK writes none."""
    header = "\n".join(
        ["NRRD0005", "type: int16", "dimension: 3", "sizes: 5 4 3", *entries, "endian: little", "encoding: raw"]
    )
    path.write_bytes(header.encode() + b"\n\n" + VOXELS.tobytes("F"))
    return path


def meta_image(path, unit: str):
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nOffset = 10 20 30\n"
        f"DistanceUnits = {unit}\nElementSpacing = 5 5 5\nDimSize = 5 4 3\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + VOXELS.tobytes("F"))
    return path


DIRECTIONS = (
    "space: left-posterior-superior",
    "space directions: (5,0,0) (0,5,0) (0,0,5)",
    "space origin: (10,20,30)",
)


@pytest.mark.fault("39", "lengths in m, cm, um and nm, in NRRD by axes or by space and in MetaImage")
@pytest.mark.parametrize(
    ("unit", "mm"),
    [("m", 1000), ("cm", 10), ("mm", 1), ("um", 1e-3), ("micron", 1e-3), ("µm", 1e-3), ("nanometers", 1e-6)],
)
def test_lengths_are_in_mm_whatever_the_unit(tmp_path, unit, mm):
    three = f'"{unit}" "{unit}" "{unit}"'
    files = [nrrd(tmp_path / "space.nrrd", *DIRECTIONS, f"space units: {three}")]
    files += [nrrd(tmp_path / "axes.nrrd", f"units: {three}", "spacings: 5 5 5")]
    files += [meta_image(tmp_path / "meta.mha", unit)] if unit in ("cm", "mm", "um") else []
    for file in files:
        facts, image = read(file), LoadImage(reader=ScanReader)(file)
        expected = np.diag([-5 * mm, -5 * mm, 5 * mm, 1])
        expected[:3, 3] = (0, 0, 0) if file.stem == "axes" else (-10 * mm, -20 * mm, 30 * mm)
        np.testing.assert_allclose(facts.affine, expected, rtol=1e-9)
        np.testing.assert_allclose(image.affine, expected, rtol=1e-9)
        said = [text for text in facts.warnings if text.startswith("unit ")]
        assert len(said) == (mm != 1)
        for text in said:
            says(text, "5x5x5", f"read as {5 * mm:.4g}x{5 * mm:.4g}x{5 * mm:.4g} mm")


@pytest.mark.fault("39", "units that are no length, and of which there are two")
@pytest.mark.parametrize(("units", "said"), [('"inch" "inch" "inch"', "inch"), ('"um" "um" "mm"', "um, mm")])
def test_a_unit_that_is_not_known_is_refused_by_the_check_and_by_the_reader(tmp_path, units, said):
    file = nrrd(tmp_path / "a.nrrd", *DIRECTIONS, f"space units: {units}")
    text = fault(file)
    says(text, "a.nrrd", f"lengths in {said},", "expected one of m, cm, mm, um, nm", "all axes", "correct the unit")
    with pytest.raises(ScanFault) as error:
        LoadImage(reader=ScanReader)(file)
    assert str(error.value) == text


@pytest.mark.fault(
    "41", "a NIfTI without sform and qform, an NRRD without a space of the body, a MetaImage without a matrix"
)
def test_a_header_that_says_nothing_of_the_orientation_is_a_warning(tmp_path):
    nib.save(nib.Nifti1Image(VOXELS, None), tmp_path / "a.nii.gz")
    (text,) = read(tmp_path / "a.nii.gz").warnings
    says(text, "NIfTI without orientation", "neither sform nor qform", "read as LAS")
    for space, found in (
        ("space: scanner-xyz", "names the space scanner-xyz"),
        ("space dimension: 3", "names no space"),
    ):
        (text,) = read(nrrd(tmp_path / "a.nrrd", space, *DIRECTIONS[1:])).warnings
        says(text, "NRRD without orientation", found, "read as LPS")
    for space in ("left-posterior-superior", "RAS", "left-anterior-superior"):
        assert read(nrrd(tmp_path / "a.nrrd", f"space: {space}", *DIRECTIONS[1:])).warnings == ()
    write_itk(tmp_path / "a.mha", VOXELS)
    assert read(tmp_path / "a.mha").warnings == ()
    raw = re.sub(rb"TransformMatrix = .*\n", b"", (tmp_path / "a.mha").read_bytes())
    (tmp_path / "a.mha").write_bytes(raw)
    for content, alone in ((raw, True), (re.sub(rb"AnatomicalOrientation = .*\n", b"", raw), False)):
        (tmp_path / "a.mha").write_bytes(content)
        (text,) = read(tmp_path / "a.mha").warnings
        says(text, "MetaImage without orientation", "no TransformMatrix", "read as LPS")
        assert ("AnatomicalOrientation alone is not heeded" in text) == alone


@pytest.mark.fault("41", "DICOM slices without ImageOrientationPatient; greys of MONOCHROME1")
def test_dicom_that_leaves_its_orientation_or_its_greys_to_the_reader_is_a_warning(tmp_path):
    def warnings(name, **elements):
        for k in range(3):
            place = {**placed((0, 0, 2 * k), np.eye(3)), **elements}
            dicom(tmp_path / name / f"{k}.dcm", np.arange(16, dtype=np.uint16).reshape(4, 4), place, number=k)
        return read(tmp_path / name).warnings

    assert warnings("a") == ()
    assert warnings("b", **{"0020|0037 DS": None}) == (
        "DICOM without orientation: a header has no ImageOrientationPatient; slices are read as axial, LPS",
    )
    assert warnings("c", **{"0028|0004 CS": "MONOCHROME1"}) == (
        "MONOCHROME1: low values are bright; the greys are read turned round, bright is high",
    )


@pytest.mark.fault("8a", "a link to a .mhd, whose voxels lie beside the file itself")
def test_a_link_to_a_mhd_is_read(tmp_path):
    (tmp_path / "own").mkdir()
    write_itk(tmp_path / "own/a.mhd", VOXELS)
    (tmp_path / "b.mhd").symlink_to(tmp_path / "own/a.mhd")
    assert read(tmp_path / "b.mhd").voxels == read(tmp_path / "own/a.mhd").voxels
    reader = ScanReader()
    np.testing.assert_array_equal(reader.get_data(reader.read(tmp_path / "b.mhd"))[0], VOXELS)


def test_an_empty_unit_is_mm(tmp_path):
    assert read(nrrd(tmp_path / "a.nrrd", *DIRECTIONS, 'space units: "" "" ""')).spacing_mm == (5, 5, 5)
    assert read(meta_image(tmp_path / "a.mha", "?")).spacing_mm == (5, 5, 5)


# DICOM series


def test_a_folder_without_a_series_is_a_fault(tmp_path):
    (tmp_path / "p01").mkdir()
    (tmp_path / "p01/notes.txt").write_text("none")
    assert fault(tmp_path / "p01") == "p01 is a folder without a DICOM image."


def test_several_series_are_listed(tmp_path):
    write_series(write_series(tmp_path / "p01", VOXELS), VOXELS[..., :2], series="5.6.7")
    text = fault(tmp_path / "p01")
    series = ("1.2.3.4_0.dcm and 2 more", "5.6.7_0.dcm and 1 more")
    says(text, "p01 holds 2 DICOM series", "expected one a folder", *series)


COPY_OR_MOVE = ("Copy them again", "move", "a report, a presentation state", "out of the folder")


@pytest.mark.parametrize("cut", [10, 50, 99, -1])
def test_a_truncated_slice_is_named(tmp_path, cut):
    """ITK would leave it out, and the slices beyond it would come one place nearer."""
    file = write_series(tmp_path / "p01", VOXELS) / "1.2.3.4_7.dcm"
    raw = file.read_bytes()
    file.write_bytes(raw[:cut] if cut < 0 else raw[: len(raw) * cut // 100])
    says(fault(tmp_path / "p01"), "p01", "truncated", "images: 1.2.3.4_7.dcm.", *COPY_OR_MOVE)


def test_a_report_among_slices_is_to_be_moved_out(tmp_path):
    folder = write_series(tmp_path / "p01", VOXELS)
    pixels = ("7FE0|0010 OW", *(f"0028|{tag}" for tag in ("0002 US", "0004 CS", "0010 US", "0011 US", "0100 US", "0101 US",
                                                           "0102 US", "0103 US")))  # fmt: skip
    report = {**dict.fromkeys(pixels), "0020|000E UI": "9.9.9"}
    dicom(folder / "report.dcm", VOXELS[:, :, 0], report, kind="1.2.840.10008.5.1.4.1.1.88.11")
    says(fault(folder), "p01", "truncated", "images: report.dcm.", *COPY_OR_MOVE)


@pytest.mark.parametrize("at", [(0, 1, 3), (0, 2, 3, 4, 5), (0, 1, 1), (0, 0, 1, 1), (0, 1, 2, 3, 4, 5, 6, 7, 9)])
def test_a_missing_or_doubled_slice_is_a_fault(tmp_path, capfd, at):
    write_series(tmp_path / "p01", numbered(5, 4, len(at)), at=at)
    assert "p01 has slices at unequal distances" in fault(tmp_path / "p01")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("at", [(0, 0, 0), (0, 0), (7, 7, 7)])
def test_a_film_of_one_slice_is_no_volume(tmp_path, at):
    """ITK would stack its frames at 1 mm."""
    write_series(tmp_path / "p01", numbered(5, 4, len(at)), at=at)
    assert fault(tmp_path / "p01").startswith("p01 has slices that lie at one place: a film")


def test_slightly_unequal_distances_are_a_warning(tmp_path, capfd):
    write_series(tmp_path / "p01", VOXELS, at=(0, 1.05, 2))
    assert read(tmp_path / "p01").warnings == ("slices at unequal distances: up to 5.0% off the mean",)
    assert capfd.readouterr().err == ""


def test_other_files_in_the_folder_of_a_series_do_not_matter(tmp_path):
    folder = write_series(tmp_path / "p01", VOXELS)
    facts = read(folder)
    (folder / "notes.txt").write_text("read twice")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "._1.2.3.4_0.dcm").write_bytes(b"of macOS")
    assert read(folder).voxels == facts.voxels


@pytest.mark.slow
def test_threads_that_come_first_to_itk_leave_the_working_folder_alone(tmp_path):
    """ITK changes it while it loads a module; two at once would put back each other's."""
    for name in "abcd":
        write_itk(tmp_path / f"{name}.nrrd", VOXELS)
    script = (
        "import os, sys; from custom.cohort.facts import Facts; from custom.cohort.record import Record; here = os.getcwd();"
        "found = Record().facts(['a.nrrd', 'b.nrrd', 'c.nrrd', 'd.nrrd'], workers=4);"
        "assert all(isinstance(f, Facts) for f in found.values()), found; assert os.getcwd() == here, os.getcwd()"
    )
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )


def test_a_picture_with_bytes_behind_its_end_is_read_and_a_truncated_one_with_a_thumbnail_is_not(tmp_path):
    """As telephones write them."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    file = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(file)
    plain, before = file.read_bytes(), read(file).voxels
    file.write_bytes(plain + b"SEFT" + bytes(range(40)))
    assert read(file).voxels == before
    thumbnail = b"\xff\xe1\0\x0aExif" + b"\xff\xd8\xff\xd9"  # an end mark of its own, in the header
    for end in (len(plain) // 2, len(plain) - 2):
        file.write_bytes(plain[:2] + thumbnail + plain[2:end])
        assert fault(file) == "a.jpg is truncated: it lacks the end mark of a JPEG file."


def test_a_header_of_a_metaimage_may_lack_its_last_end_of_line(tmp_path):
    file = write_itk(tmp_path / "a.mhd", VOXELS)
    before = read(file).voxels
    file.write_text(file.read_text().rstrip("\n"))
    assert read(file).voxels == before


def test_a_nifti_file_is_known_by_its_suffix_however_it_is_spelt(tmp_path):
    expected = read(write_nifti(tmp_path / "a.nii.gz", VOXELS)).voxels
    for name in ("b.Nii.gz", "c.nii.GZ"):
        (tmp_path / name).write_bytes((tmp_path / "a.nii.gz").read_bytes())
        assert read(tmp_path / name).voxels == expected
        reader = ScanReader()
        np.testing.assert_array_equal(reader.get_data(reader.read(tmp_path / name))[0], VOXELS)
