"""Files of a case that lie on one grid by the other transform of a NIfTI header: their voxels fit, their headers do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .case import Case
from .facts import Facts
from .grids import difference, one_by_other_transform


def displaced(case: Case, facts: Mapping[str, Facts]) -> tuple[list[tuple[str, str]], dict[str, Facts]]:
    """Kind and sentence of each such fault; and the facts of its file on the image's grid, to be judged further.

    A tool that reads the qform where the sform is used here (or the reverse) writes a label with that one alone. What is
    right for other labels on another grid, a resampling, would displace it.
    """
    first, *others = [file for file in case.files.values() if file in facts] or [""]
    faults, fitted = [], {}
    for file in others + ([case.label] if first and case.label in facts else []):
        found, image = facts[file], facts[first]
        if (differs := difference(found, image)) and one_by_other_transform(found, image):
            text = f"{case.called(file)} is not on the grid of {Path(first).name}: {differs}; by the other both lie on one grid"
            remedy = (
                f"Copy the header of {Path(first).name} to it, the voxels as they are: resampling would displace it"
            )
            faults.append(("Grids", f"{text}. {remedy}"))
            fitted[file] = replace(found, affine=image.affine, spacing_mm=image.spacing_mm)
    return faults, fitted
