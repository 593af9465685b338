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
class Patient:
    """One drawn case.

    Args:
        images: voxels by modality; a single one is named ``""``.
        label: uint8, on the same grid.
        spacing_mm: of its axes.
        attributes: what was drawn of the patient and of the exposure, numbers or names: what may make a case hard.
    """

    images: dict[str, Array]
    label: Array
    spacing_mm: tuple[float, ...]
    attributes: Mapping[str, float | str]


@dataclass(frozen=True)
class Scanner:
    """The ranges in which exposures differ; values are drawn evenly from each."""

    sequences: Mapping[str, float]  # name: share of the patients
    texture: tuple[float, float] = (0.03, 0.1)
    gamma: tuple[float, float] = (0.75, 1.3)
    blur: tuple[float, float] = (0.2, 0.8)  # voxels
    ghosts: float = 0.25  # share of the patients
    ghost: tuple[float, float] = (0.04, 0.12)
    noise: tuple[float, float] = (0.01, 0.04)  # of the brightest tissue


FOUR_SEQUENCES = Scanner({"bright blood": 0.4, "late": 0.25, "first pass": 0.2, "dark blood": 0.15})
CINE = Scanner(
    {"cine": 1.0},
    texture=(0.03, 0.16),
    gamma=(0.6, 1.6),
    blur=(0.2, 1.1),
    ghosts=0.4,
    ghost=(0.04, 0.2),
    noise=(0.01, 0.07),
)
"""One sequence, whose contrast, noise and artefacts vary by degrees: what a few patients lack, others nearly have."""


@dataclass(frozen=True)
class Form:
    """What differs between the forms: grid, modalities, how a patient is drawn and stored."""

    patients: Mapping[str, int]
    size: tuple[int, int, int]
    draw: Callable[[Form, Random], Patient]
    suffix: str = ".nii.gz"
    plane_mm: tuple[float, float] = (1.4, 1.75)
    slice_mm: tuple[float, float] = (7.0, 10.0)
    thick: int = 2  # sheets a slice
    modalities: tuple[str, ...] = ("",)
    kinds: bool = True  # hearts of five kinds; else their shapes differ by degrees
    scanner: Scanner = FOUR_SEQUENCES
    seed: str = ""  # of its patients, where not the form's own name
