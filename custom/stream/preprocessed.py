"""Makes compact tensors from the files of a case: the transforms run, and what they give is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cohort.formats.itk_image import is_picture
from ..cohort.intensities import measure
from ..cohort.names import case_names
from ..errors import UserError
from .scan import Scan, foreground_table


class ListError(UserError, ValueError):
    """A list of cases that lacks something; seen without opening a file."""


class ScanError(UserError, RuntimeError):
    """A file that cannot be read, or is not what the task says."""


class Preprocessed:
    """The cases of a list, each read anew whenever it is asked for.

    Args:
        data, transform, keys, slices, name, channels: as :class:`.bank.Bank` takes them.
    """

    def __init__(
        self,
        data: Sequence[dict],
        transform: Callable,
        keys: Sequence[str] = ("image", "label"),
        slices: bool = False,
        name: str = "labelled",
        channels: Sequence[str] = (),
    ) -> None:
        self.data, self.transform, self.keys, self.slices = list(data), transform, tuple(keys), slices
        self.name, self.channels = name, tuple(channels)
        self.names = case_names(self.data, self.channels)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def labelled(self) -> bool:
        return "label" in self.keys

    def faults(self) -> list[str]:
        """What can be seen to be wrong without opening a file, one line a case."""
        faults = []
        for case, name in zip(self.data, self.names, strict=True):
            for key in self.keys:
                if not case.get(key):
                    faults.append(f"case {name}: no {key}, found the keys {sorted(case)}; add a path below {key!r}")
            image = case.get("image")
            if isinstance(image, Mapping) and image and not any(image.get(channel) for channel in self.channels):
                wanted = ", ".join(self.channels) or "none; name them in the task"
                faults.append(f"case {name}: has the modalities {sorted(image)}, the task's channels are: {wanted}")
        return faults

    def files(self, index: int) -> Iterator[tuple[str, Path]]:
        """What a case is read from: the key (and the modality) and the file, in the order of the keys."""
        for key in self.keys:
            value = self.data[index][key]
            for part, file in (value if isinstance(value, Mapping) else {"": value}).items():
                for number, path in enumerate(file if isinstance(file, list) else [file]):
                    if isinstance(path, str | Path) and path:
                        yield f"{key} {part} {number}", Path(path)

    def __getitem__(self, index: int) -> Scan:
        """Read a case.

        Raises:
            ScanError: it cannot be read or does not fit the description; names it and its files.
        """
        case = {key: self.data[index][key] for key in self.keys}
        files, present = self._given(case["image"])
        case["image"] = files
        try:
            tensors = self.transform(case)
            image = self._image(_plain(tensors["image"]), present)
            label = self._label(_plain(tensors["label"]), image) if self.labelled else None
            spacing = _spacing_mm(tensors["image"], files)
            there = torch.tensor(present or [True] * image.shape[0])
            measured = measure(image, self.channels or [str(number) for number in range(len(image))])
            seen = {name: known for (name, known), has in zip(measured.items(), there.tolist(), strict=True) if has}
            if self.slices:
                if image.ndim != 4:
                    raise ValueError(
                        f"slices needs a volume (C, X, Y, Z), found {tuple(image.shape)}; set slices to false"
                    )
                image = image.movedim(-1, 0).contiguous()
                label = None if label is None else label.movedim(-1, 0).contiguous()
            foreground = [] if label is None else foreground_table(label, self.slices)
            return Scan(image, label, there, spacing, seen, foreground)
        except Exception as error:
            paths = ", ".join(str(case[key]) for key in self.keys)
            text = f"{self.name} case {self.names[index]}: cannot use {paths}: {_root(error)}"
            raise ScanError(text) from error

    def _given(self, image: Any) -> tuple[Any, list[bool]]:
        """What the transform gets below "image": a path, or the paths of the modalities that are there, in order."""
        if not isinstance(image, Mapping):
            return image, []
        present = [bool(image.get(channel)) for channel in self.channels]
        return [image[channel] for channel, there in zip(self.channels, present, strict=True) if there], present

    def _image(self, image: Tensor, present: list[bool]) -> Tensor:
        """``(C, *spatial)`` float16, with zeros for the modalities that are missing."""
        found, expected = image.shape[0], sum(present) or len(self.channels) or image.shape[0]
        if found != expected:
            names = [name for name, there in zip(self.channels, present, strict=False) if there] or self.channels
            raise ValueError(
                f"the image has {found} channels (shape {tuple(image.shape)}), expected {expected}: "
                f"{', '.join(names)}; correct the task's channels or the files"
            )
        half = image.half()
        if not half.isfinite().all():
            raise ValueError(
                f"image values from {image.min():g} to {image.max():g} do not fit float16 or are not finite; "
                "scale intensities in the preprocessing (scripts.cohort.scaling.ScalePercentilesd)"
            )
        if not present or all(present):
            return half.contiguous()
        full = half.new_zeros(len(present), *half.shape[1:])
        full[torch.tensor(present)] = half
        return full

    def _label(self, label: Tensor, image: Tensor) -> Tensor:
        """``(*spatial)`` uint8."""
        if label.shape != (1, *image.shape[1:]):
            raise ValueError(
                f"label {tuple(label.shape)} does not fit the image {tuple(image.shape)}, expected "
                f"{(1, *image.shape[1:])}: one channel on the image's grid"
            )
        small = label[0].to(torch.uint8)
        if not torch.equal(small.to(label.dtype), label[0]):
            wrong = label[0][small.to(label.dtype) != label[0]].unique()[:5].tolist()
            raise ValueError(
                f"the label has the values {wrong}, expected whole numbers 0..255; read labels with "
                "whole: true, and resample them by nearest"
            )
        return small.contiguous()


def _plain(value: Any) -> Tensor:
    """The tensor without MONAI's metadata: every operation on a MetaTensor would cost some 40 microseconds more."""
    return value.as_tensor() if hasattr(value, "as_tensor") else torch.as_tensor(value)


def _spacing_mm(image: Any, files: Any) -> tuple[float, ...] | None:
    """Voxel sizes by MONAI's affine. A picture has pixels without a size."""
    paths = files if isinstance(files, list) else [files]
    if not hasattr(image, "pixdim") or any(is_picture(path) for path in paths):
        return None
    return tuple(float(size) for size in image.pixdim[: image.ndim - 1])


def _root(error: BaseException) -> str:
    """The innermost cause: MONAI wraps each error in 'applying transform ...'."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
