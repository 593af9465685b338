"""Room on disk and in memory that a study takes, from what its probe took: known before the first training."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..memory import physical_memory
from .settings import StudyError

GIGABYTE = 1e9
PICTURE = 300_000  # bytes of a preview
OF_MEMORY = 0.9  # of the machine's, that trainings may take together
# Of the first level's width, in float32, for each voxel of a batch. UNet keeps 14 (3D) to 21 (2D) for the backward pass;
# twice as many, for gradients, a second network and what the allocator does not give back. An estimate: no probe
# measures it.
MAPS = 44


@dataclass(frozen=True)
class Probed:
    """What the trainings of the probe took, the larger of the two.

    Args:
        imports: bytes of memory before anything was read.
        peak: bytes of memory at most.
        run: bytes on disk of a run's folder.
        scans: bytes on disk of the preprocessed scans.
    """

    imports: float
    peak: float
    run: float
    scans: float = 0.0


def memory_so_far() -> int:
    """Bytes that this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def on_disk(folder: Path) -> int:
    """Bytes of the files below a folder; a link counts as nothing."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def memory_of(probed: Probed, voxels: float) -> float:
    """The most bytes of a training whose patches and scans have ``voxels`` times as many voxels as the probe's."""
    return probed.imports + voxels * (probed.peak - probed.imports)


def rooms_in_memory(
    probed: Probed, voxels: Mapping[float, float], jobs: int, memory: float | None = None
) -> dict[float, float]:
    """The grids for which there is memory with that many trainings side by side.

    Args:
        voxels: of a training patch by room, the probe's the fewest.
        memory: bytes of the machine; None asks it.

    Raises:
        StudyError: not even the coarsest.
    """
    fewest, most = min(voxels.values()), OF_MEMORY * (memory or physical_memory())
    found = {room: count for room, count in voxels.items() if jobs * memory_of(probed, count / fewest) <= most}
    if not found:
        raise StudyError(
            f"{jobs} training(s) at a time take about {_size(jobs * probed.peak)} of memory, {_size(most)} can be used. "
            "Run fewer at a time (--jobs 1), or on a machine with more memory"
        )
    return found


def on_device(voxels: float, width: int, jobs: int) -> float:
    """Bytes that trainings side by side take on a GPU at most, ``4 * MAPS * voxels * width * jobs``: an estimate.

    Args:
        voxels: of a batch.
        width: channels of the network's first level.
    """
    return 4.0 * MAPS * voxels * width * jobs


@dataclass(frozen=True)
class Disk:
    """Bytes on disk that a study takes.

    Args:
        run: of the folder of each training.
        scans: of the preprocessed scans, each once.
        maps: of the label maps and previews of the unlabelled scans.
    """

    run: float
    scans: float
    maps: float

    def of(self, trainings: int) -> float:
        """All of it, with so many trainings: a scan may be kept with its label and without."""
        return trainings * self.run + 2 * self.scans + self.maps

    def missing(self, runs: Path, cache: Path, names: Sequence[str], maps: bool) -> float:
        """What is still to come of it.

        Args:
            runs, cache: folders of the trainings and of the preprocessed scans.
            names: of the trainings that are not done.
            maps: whether the unlabelled scans are still to be segmented.
        """
        if not names:
            return 0.0
        each = [max(0.0, self.run - on_disk(runs / name)) for name in names]
        return sum(each) + max(0.0, self.scans - on_disk(cache)) + (self.maps if maps else 0.0)


def disk_needed(
    probed: Probed,
    widths: Sequence[int],
    probe_widths: Sequence[int],
    images: Iterable[Path],
    voxels: float = 1.0,
) -> Disk:
    """What a study takes on disk.

    Args:
        voxels: of a scan, for one in the probe.
        widths, probe_widths: channels of the networks' levels; the weights go with their squares.
        images: of the unlabelled scans; a compressed label map is taken for as large as its image, three times.
    """
    heavier = sum(n * n for n in widths) / sum(n * n for n in probe_widths)
    sizes = [path.stat().st_size for path in images]
    return Disk(
        run=probed.run * max(1.0, heavier),
        scans=probed.scans * max(1.0, voxels),
        maps=3 * sum(sizes) + PICTURE * len(sizes),
    )


def check_disk(folder: Path, needed: float) -> str:
    """What is needed and what there is, in a sentence.

    Raises:
        StudyError: there is less than needed.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StudyError(
            f"The study will take about {_size(needed)} on disk, {_size(free)} are free in {folder}. Free some, or put the study "
            "elsewhere"
        )
    return f"about {_size(needed)} on disk, where {_size(free)} are free"


def memory_line(jobs: int, bytes_each: float) -> str:
    """A line on the memory that trainings side by side take."""
    return f"at most {_size(jobs * bytes_each)} of the {_size(physical_memory())} of memory"


def _size(count: float) -> str:
    return f"{count / GIGABYTE:.1f} GB" if count >= 0.1 * GIGABYTE else f"{count / 1e6:.0f} MB"
