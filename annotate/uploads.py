"""Whether a file that a client sends is a scan, or a label of one, that the served bundle can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from custom.cohort.case import Case
from custom.cohort.facts import Facts, ScanFault, read
from custom.cohort.formats.itk_image import is_picture, quiet_itk, read_image
from custom.cohort.label_formats import OF_FILES, OF_PICTURES, smallest
from custom.cohort.reader import is_nifti

from .form import Form, image_fault
from .requests_check import BadRequest, judge_names

MAX_VOXELS = 2**29  # of an upload; 1 GiB as int16


def judge_image(image: Path, form: Form) -> None:
    """Read an image to its end.

    Raises:
        BadRequest: it cannot be read, or is not what the bundle takes, in the words of the cohort check.
    """
    _judge(Case("upload", image.name, image.name, {"": str(image)}, ""), form, {str(image): _read(image)})


def take_label(label: Path, image: Path, form: Form, segments: Sequence[Mapping[str, Any]] = ()) -> None:
    """Read a label to its end, and its image; a label from a program that numbers its segments gets the task's values.

    Args:
        segments: ``{name, idx}`` each, as 3D Slicer sends them: the label's values are 1, 2, ... in the order of the task's
            values above 0; none: they are those values.

    Raises:
        BadRequest: it cannot be read, is not on the image's grid, or has a value that no class has; a segment with
            voxels has no class's name.
    """
    values = sorted(form.label_values)
    numbers = list(range(len(values)))
    facts = {str(image): _read(image), str(label): _read(label)}
    case = Case("upload", image.name, image.name, {"": str(image)}, str(label))
    _judge(case, form, facts, numbers if segments else form.label_values)
    judge_names(segments, list(form.segments), [value for value, _ in facts[str(label)].values or ()])
    if segments and numbers != values:
        _renumber(label, values)


def _renumber(label: Path, values: Sequence[int]) -> None:
    """Write a label of the numbers 0, 1, ... anew with these values, on its grid."""
    kind = smallest(values, OF_PICTURES if is_picture(label) else OF_FILES)
    table = np.asarray(values, kind)
    if is_nifti(label):
        found: Any = nibabel.load(label)
        voxels = table[np.asarray(found.dataobj).round().astype(int)]
        header = found.header.copy()
        header.set_data_dtype(kind)
        header.set_slope_inter(1, 0)
        nibabel.save(type(found)(voxels, None, header), label)
        return
    itk, found = quiet_itk(), read_image(label)
    image = itk.image_from_array(table[itk.array_from_image(found).round().astype(int)])
    image.CopyInformation(found)
    itk.imwrite(image, str(label), compression=not is_picture(label))


def _judge(case: Case, form: Form, facts: dict[str, Facts], values: Sequence[int] = ()) -> None:
    faults = [turned(Path(file)) for file, found in facts.items() if found.turned]
    if faults := [*faults, *filter(None, [image_fault(case, form, facts, values)])]:
        raise BadRequest("; ".join(faults))


def turned(image: Path) -> str:
    """Why a picture with another EXIF orientation than 1 is not annotated."""
    return (
        f"{image.name} says in EXIF how it is to be turned, and 3D Slicer shows it as it is stored: a mask would lie elsewhere. "
        "Save it upright, without that note"
    )


def _read(path: Path) -> Facts:
    try:
        return read(path, MAX_VOXELS)
    except ScanFault as fault:
        raise BadRequest(f"{fault} Send it again, or save it anew") from fault
