"""What networks drew: folders of scans to segment, and the label maps that came back, as class indices."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..cohort.formats import open_scan
from ..cohort.formats.counts import whole
from ..cohort.label_formats import as_classes
from ..cohort.names import suffix
from ..cohort.split import FoundScan
from ..files import link_or_copy

_MOST = 2**31  # voxels


def link_folder(folder: Path, scans: Sequence[FoundScan]) -> Path | None:
    """A folder of links to the images of some scans, as inference takes it; None where none can be segmented.

    Scans that lack a modality are left out. Modalities lie in folders of their own.
    """
    complete = [scan for scan in scans if scan.complete]
    if not complete:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    for scan in complete:
        files = scan.image if isinstance(scan.image, Mapping) else {"": scan.image}
        for channel, file in files.items():
            place = folder / channel / f"{scan.name}{suffix(file)}"
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(place, Path(file))
    return folder


def map_of(folder: Path, name: str) -> Path | None:
    """The label map of a scan in a folder of predictions; None where there is none."""
    return next((path for s in (".nii.gz", ".png") if (path := folder / f"{name}_pred{s}").is_file()), None)


def read_map(path: Path, label_values: Sequence[int]) -> NDArray[np.uint8]:
    """The classes of a label map: the index of each voxel's value in ``label_values``, ``(*spatial)``."""
    return as_classes(whole(np.asarray(open_scan(path, _MOST).voxels)), label_values)
