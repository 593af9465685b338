"""What a form of the phantom is: size, grid, modalities, and who draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .grid import Array, Random

CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")
LESION_CLASSES = ("background", "lesion")
PARTS = ("labelled", "unlabelled", "validation", "test")
MODALITIES = ("first", "second")
STACK_PATIENTS = {"labelled": 4, "unlabelled": 40, "validation": 10, "test": 60}
PICTURE_PATIENTS = {"labelled": 8, "unlabelled": 80, "validation": 20, "test": 60}


@dataclass(frozen=True)
class Form:
    """What differs between the forms: grid, modalities, how a patient is drawn and stored."""

    patients: Mapping[str, int]
    size: tuple[int, int, int]
    draw: Callable[[Form, Random], tuple[dict[str, Array], Array, tuple[float, ...]]]
    suffix: str = ".nii.gz"
    plane_mm: tuple[float, float] = (1.4, 1.75)
    slice_mm: tuple[float, float] = (7.0, 10.0)
    thick: int = 2  # sheets a slice
    modalities: tuple[str, ...] = ("",)
