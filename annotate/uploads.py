"""Whether a file that a client sends is a scan, or a label of one, that the served bundle can use."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from custom.cohort.case import Case, Task
from custom.cohort.facts import Facts, ScanFault, read

from .requests_check import BadRequest

MAX_VOXELS = 2**29  # of an upload; 1 GiB as int16


class Form(Protocol):
    """What is asked of the served bundle (:class:`annotate.bundle.Served`)."""

    channels: list[str]
    classes: list[str]
    dimensions: int
    slices: bool
    orientation: str
    fill_nonfinite: bool


def judge_image(image: Path, form: Form) -> None:
    """Read an image to its end.

    Raises:
        BadRequest: it cannot be read, or is not what the bundle takes, in the words of the cohort check.
    """
    _judge(Case("upload", image.name, image.name, {"": str(image)}, ""), form, {str(image): _read(image)})


def judge_label(label: Path, image: Path, form: Form) -> None:
    """Read a label to its end, and its image.

    Raises:
        BadRequest: it cannot be read, is not on the image's grid, or has a value that is no class.
    """
    facts = {str(image): _read(image), str(label): _read(label)}
    _judge(Case("upload", image.name, image.name, {"": str(image)}, str(label)), form, facts)


def _judge(case: Case, form: Form, facts: dict[str, Facts]) -> None:
    task = Task(
        channels=tuple(form.channels),
        values=tuple(range(len(form.classes))),
        axes=3 if form.slices else form.dimensions,
        slices=form.slices,
        orientation=form.orientation,
        fill_nonfinite=form.fill_nonfinite,
    )
    faults = [turned(Path(file)) for file, found in facts.items() if found.turned]
    if faults := [*faults, *(text for _, text in task.faults(case, facts))]:
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
