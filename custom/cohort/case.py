"""What a case must be for a task, and what is wrong with one, in words that name files, found, expected and remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import nearest
from . import resampling
from .facts import Facts
from .formats.itk_image import is_picture
from .formats.nifti import is_nifti
from .grids import along, as_seen, difference, one_by_other_transform, orientation, times
from .words import plural, span, value_list, value_text

TRAINING = ("labelled", "unlabelled")
FORM = {2: "picture", 3: "volume"}
LIKE_AN_IMAGE = 64  # different values of a label, and more than the task names: is it the image?
THICK = 1.5  # times the distance of the slices: more along another axis is not an accident of nearly cubic voxels


@dataclass(frozen=True)
class Case:
    """An entry of a data list.

    Args:
        files: of the image, by channel; by number where they came as a list; under "" one that holds all channels.
        label: its path; empty where it is not to be opened.
    """

    part: str
    name: str
    patient: str
    files: Mapping[str | int, str]
    label: str

    def __str__(self) -> str:
        return f"{self.part}, {self.name}"

    @property
    def by_name(self) -> bool:
        return not any(isinstance(channel, int) or channel == "" for channel in self.files)

    def kind(self, file: str) -> str:
        """``label `` before the name of a label: images and labels often have the same names in two folders."""
        return "label " if file == self.label else ""

    def called(self, file: str) -> str:
        return f"{self.kind(file)}{Path(file).name}"

    def paths(self) -> list[str]:
        return [*self.files.values(), *filter(None, [self.label])]


@dataclass(frozen=True)
class Task:
    """What the network sees; arguments as of :class:`~.check.Check`, ``axes`` are those of a file."""

    channels: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    axes: int | None = None
    slices: bool = False
    orientation: str = ""
    fill_nonfinite: bool = False
    missing_channels: bool = True
    modalities_alone: bool = False
    spacing_mm: Sequence[float] | float | None = None
    in_slabs: bool = False
    named: int = 0

    def faults(self, case: Case, facts: Mapping[str, Facts], back: bool = False) -> Iterator[tuple[str, str]]:
        """Kind and sentence of each fault, judged by the files of the case that could be read.

        Args:
            back: a network's result is brought back to the case's own grid, which takes memory there too.
        """
        images = {channel: facts[file] for channel, file in case.files.items() if file in facts}
        if self.channels and (fault := self._channels(case, images)):
            yield "Channels", fault
        for channel, found in images.items():
            name = _name(case.files[channel])
            if self.axes not in (None, len(found.shape)):
                yield "Dimensions", f"{name} {self._wrong_axes(found)}"
            elif self.slices and (fault := self._thick(found)):
                yield "Slices", f"{name} {fault}"
            elif self.orientation and "foot-head" in map(along, found.stored):
                yield "Orientation", f"{name} {self._along_the_body(found)}"
            if math.isnan(found.low):
                yield "Voxels", f"{name} has no finite voxel. Remove the entry"
            elif found.nonfinite and not self.fill_nonfinite:
                yield "Voxels", f"{nonfinite(name, found)}. Correct the file, or set fill_nonfinite to true"
        yield from self._grids(case, facts)
        if case.label in facts and (fault := self._label(case.called(case.label), facts[case.label])):
            yield "Labels", fault
        name = _name(next((case.files[channel] for channel in images), ""))
        if fault := self._resampling(case, images):
            yield "Resampling", f"{name} {fault}"
        elif back and (fault := self.result(case, images)):
            yield "Results", fault

    def result(self, case: Case, images: Mapping[str | int, Facts]) -> str:
        """What is wrong with bringing a network's result back to the grid of a case, whose files share it; empty where nothing
        is."""
        found = next(iter(images.values()), None)
        if found is None or self.in_slabs or not self.values:
            return ""
        channels = max(len(self.channels), found.channels)
        fault = resampling.unfit_back(found, self.seen(found), channels, len(self.values))
        return f"{_name(case.files[next(iter(images))])} {fault}" if fault else ""

    def seen(self, found: Facts) -> tuple[int, ...]:
        """Voxels along each axis of what the network sees of an image, by its spacing; a padding or a crop is not counted."""
        turned = as_seen(found, self.orientation)
        wanted = self.spacing_mm
        return turned.shape if wanted is None else resampling.resampled_shape(turned.shape, turned.spacing_mm, wanted)

    def lacks(self, case: Case) -> list[str]:
        """Modalities that the case has no file for; none where its names are not the task's at all."""
        named = not set(case.files).isdisjoint(self.channels)
        return [channel for channel in self.channels if named and channel not in case.files]

    def _channels(self, case: Case, images: Mapping[str | int, Facts]) -> str:
        if case.by_name:
            return self._names(case) or _several(case, images)
        count, total = sum(found.channels for found in images.values()), len(self.channels)
        if count == total or len(images) < len(case.files):
            return ""
        remedy = "Correct the file, or channels in the task"
        if (count, total) == (1, 3) and is_picture(next(iter(case.files.values()))):
            remedy = "Save it in colour, or set channels to [image] in the task"
        elif count < total:
            remedy = self._name_files()
        elif (count, total) == (4, 3):
            remedy = "Save it without transparency"
        files = ", ".join(map(_name, case.files.values()))
        return f"{files}: {plural(count, 'channel')}, the task names {total} ({', '.join(self.channels)}). {remedy}"

    def _name_files(self) -> str:
        if self.modalities_alone:
            first = self.channels[0]
            return (
                f'Say which of them it is: in a data list "image": {{"{first}": ...}}, in inference --modality {first}'
            )
        entry = ", ".join(f'"{channel}": ...' for channel in self.channels)
        return f'Give a file for each: "image": {{{entry}}}'

    def counts_lacks(self, part: str) -> bool:
        """Whether the scans of a part that lack a modality are named in the log."""
        return self.missing_channels if part in TRAINING else self.modalities_alone

    def _names(self, case: Case) -> str:
        known, lacks = ", ".join(self.channels), self.lacks(case)
        free = [channel for channel in self.channels if channel not in case.files]
        if unknown := [str(channel) for channel in case.files if channel not in self.channels]:
            guesses = ", ".join(f"'{channel}'{nearest(channel, free)}" for channel in unknown)
            return f"no such channel: {guesses}; the task names {known}. Correct the name in the data list"
        if not lacks or self.modalities_alone or (self.missing_channels and case.part in TRAINING):
            return ""
        there = len(self.channels) - len(lacks)
        return (f"{there} of {plural(len(self.channels), 'channel')} ({known}); missing {', '.join(lacks)}. "
                "Add the file to the entry, or remove the entry")  # fmt: skip

    def _wrong_axes(self, found: Facts) -> str:
        remedy = "Set dimensions in the task to what the scans are"
        if self.axes == 2:
            remedy = "Set slices to true in the task: the network then sees a volume slice by slice"
        elif self.slices:
            remedy = "Set slices to false in the task"
        wanted = FORM[self.axes or 3]
        return f"is a {FORM[len(found.shape)]} of {times(found.shape)}, the task wants {wanted}s. {remedy}"

    def _along_the_body(self, found: Facts) -> str:
        return (
            f"is a slice along the body, its axes run to {' and '.join(found.stored)}; orientation {self.orientation} turns "
            "volumes and slices across the body. Set orientation to '' in the task and take Orientationd out of its "
            "preprocessing: scans of two axes are laid as pictures lie without it"
        )

    def _thick(self, found: Facts) -> str:
        """A volume that is thick along another axis than the one that is cut into slices, once it is turned."""
        seen = as_seen(found, self.orientation)
        codes = orientation(seen.affine)
        thick = max(range(3), key=lambda axis: seen.spacing_mm[axis])
        if seen.spacing_mm[thick] < THICK * seen.spacing_mm[2]:
            return ""
        fitting = [self.orientation[axis] if self.orientation else codes[axis] for axis in range(3) if axis != thick]
        return (
            f"is thick along {along(codes[thick])} ({seen.spacing_mm[thick]:.4g} mm), and the network sees slices across "
            f"{along(codes[2])} ({seen.spacing_mm[2]:.4g} mm). Remove the entry, or, if all volumes are so, set orientation "
            f"to {''.join(fitting)}{codes[thick]}"
        )

    def _resampling(self, case: Case, images: Mapping[str | int, Facts]) -> str:
        """What is wrong with resampling a case's first image, whose grid the others share; empty where nothing is."""
        found = next(iter(images.values()), None)
        if found is None or self.spacing_mm is None:
            return ""
        volumes = max(len(self.channels), found.channels) + (0 if self.in_slabs else len(self.values))
        if self.in_slabs and can_be_streamed(case, list(images.values())):
            volumes = 0  # an image that does not fit is read in pieces
        return resampling.unfit(as_seen(found, self.orientation), self.spacing_mm, volumes)

    def _grids(self, case: Case, facts: Mapping[str, Facts]) -> Iterator[tuple[str, str]]:
        """Every file on the grid of the first of the image."""
        first, *others = [file for file in case.files.values() if file in facts] or [""]
        for file in others + ([case.label] if first and case.label in facts else []):
            if differs := difference(facts[file], facts[first], is_picture(file) or is_picture(first)):
                remedy = "Resample all modalities to one grid"
                if file == case.label:
                    remedy = "Draw or export it on the image, or resample it by nearest neighbour"
                    if facts[first].turned or facts[file].turned:
                        remedy = "Draw it on the picture as viewers show it, turned as its EXIF orientation says"
                    elif is_picture(file) != is_picture(first) and "orientation" in differs:
                        remedy = "Save both in one format: a picture says nothing of where its axes run to"
                if one_by_other_transform(facts[file], facts[first]):
                    # a tool that reads the qform where the sform is used here, or the reverse, wrote it with that one alone
                    differs += "; by the other both lie on one grid"
                    header = f"Copy the header of {_name(first)} to it, the voxels as they are"
                    remedy = f"{header}: resampling would displace it"
                yield "Grids", f"{case.called(file)} is not on the grid of {_name(first)}: {differs}. {remedy}"

    def _label(self, name: str, found: Facts) -> str:
        if found.channels != 1:
            return f"{name} has {found.channels} channels, a label has 1: a class number a voxel. Save it so"
        if found.nonfinite:
            return f"{nonfinite(name, found)}. Correct the file"
        expected = f"the task names {span(self.values)}" if self.values else "labels are whole numbers from 0"
        most = max(LIKE_AN_IMAGE, len(self.values), self.named)
        if found.values is None or len(found.values) > most:
            between = f"between {value_text(found.low)} and {value_text(found.high)}"
            return f"{name} has more than {most} different values {between}, {expected}. Is it the image?"
        values = [value for value, _ in found.values]
        wrong = [v for v in values if (v not in self.values if self.values else v < 0 or v % 1)]
        if not wrong:
            return ""
        remedy = f"Remap {value_list(wrong)}"
        if name.lower().endswith((".jpg", ".jpeg")):
            remedy = "JPEG changes values: save labels as PNG"
        elif self.values and all(v > 0 and not v % 1 for v in wrong):
            remedy += f", or name {'it' if len(wrong) == 1 else 'them'} under classes and label_values"
        return f"{name} has the values {{{value_list(values)}}}, {expected}. {remedy}"


def can_be_streamed(case: Case, found: Sequence[Facts]) -> bool:
    """Whether all files of a case are volumes that can be read in slabs."""
    return all(is_nifti(Path(file)) for file in case.files.values()) and all(len(facts.shape) == 3 for facts in found)


def nonfinite(name: str, found: Facts) -> str:
    """``p01.nii.gz has 1 non-finite voxel of 4096``."""
    total = math.prod(found.shape) * found.channels
    return f"{name} has {plural(found.nonfinite, 'non-finite voxel')} of {total}"


def _several(case: Case, images: Mapping[str | int, Facts]) -> str:
    several = [f"{_name(case.files[channel])} has {found.channels} channels, a modality's file has 1"
               for channel, found in images.items() if found.channels != 1]  # fmt: skip
    return "; ".join(several) + ". Give a file for each modality" if several else ""


def _name(file: str | Path) -> str:
    return Path(file).name
