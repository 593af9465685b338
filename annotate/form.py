"""What the served bundle takes, and whether a file is that: judged as the bundle's own inference judges its scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from custom.cohort.case import Case, Task
from custom.cohort.facts import Facts


class Form(Protocol):
    """What is asked of the served bundle (:class:`annotate.bundle.Served`).

    Attributes:
        spacing_mm: that images are resampled to, an axis at a time; None: none is resampled.
    """

    channels: list[str]
    label_values: list[int]
    dimensions: int
    slices: bool
    orientation: str
    fill_nonfinite: bool
    spacing_mm: Sequence[float] | float | None

    @property
    def segments(self) -> dict[str, int]:
        """Names of the classes and their values in label files, in the order of the values."""
        ...


def image_fault(case: Case, form: Form, facts: Mapping[str, Facts], values: Sequence[int] = ()) -> str:
    """What is wrong with an image, and its label where there is one, in the words of the cohort check; empty where nothing is.

    Args:
        values: that a label may have; those of the form where none are given.
    """
    task = Task(
        channels=tuple(form.channels),
        values=tuple(values or form.label_values),
        axes=3 if form.slices else form.dimensions,
        slices=form.slices,
        orientation=form.orientation,
        fill_nonfinite=form.fill_nonfinite,
        spacing_mm=form.spacing_mm,
    )
    return "; ".join(text for _, text in task.faults(case, facts, back=True))
