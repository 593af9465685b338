"""Files of weights: names and tensors, read whole, and put into a network."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..cohort.words import plural, some
from ..errors import UserError

ZIP = b"PK"
EXPECTED = "expected names and tensors, as a training writes models/model.pt"
FETCH = "Copy the file once more from where it came from, download its bundle again, or train anew"
ALONE = "Give the model.pt of a finished bundle, or save what network.state_dict() gives, alone"


class WeightsError(UserError, ValueError):
    """Weights are damaged, or are not weights, or do not fit the network, or none read the modality of a case."""


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU. Code that a file may hold is not run.

    Raises:
        WeightsError: damaged (torch reads a flipped bit without a word), cut short, not written by torch.save,
            something else than tensors by name, or numbers that are not finite.
    """
    try:
        _verify_checksums(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # torch, pickle and zipfile raise half a dozen types for a damaged file
        raise _refused(path, *_reason(path, error)) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _refused(path, _content(state), ALONE)
    odd = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if odd:
        found = f"numbers that are not finite in {len(odd)} of {plural(len(state), 'tensor')}: {some(odd, 3)}"
        raise _refused(path, found, "Take weights of an earlier moment, or train anew")
    return state


def load(network: nn.Module, path: Path) -> None:
    """Put the weights of a file into a network.

    Raises:
        WeightsError: as :func:`read`; they do not fit the network.
    """
    state = read(path)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        found = _difference(network.state_dict(), state) or str(error).splitlines()[-1].strip()
        raise WeightsError(
            f"{path}: these weights do not fit network_def ({found}). Set widths, channels, classes, dimensions and norm as "
            "they were in training, or work inside the finished bundle (cd OUTPUT_DIR/bundle)."
        ) from error


def _verify_checksums(path: Path) -> None:
    """Each record of a zip archive has a checksum, which torch does not compare. Files of older forms have none."""
    with path.open("rb") as file:
        if file.read(2) != ZIP:
            return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise _refused(path, f"a damaged file (the checksum of {damaged} is wrong)", FETCH)


def _refused(path: Path, found: str, remedy: str) -> WeightsError:
    return WeightsError(f"the weights {path}: found {found}; {EXPECTED}. {remedy}.")


def _reason(path: Path, error: Exception) -> tuple[str, str]:
    """What was found in a file that torch cannot load, and what to do."""
    text = str(error)
    if isinstance(error, OSError):
        return f"that it cannot be read ({error.strerror or text})", "See its permissions and its disk"
    if not path.stat().st_size:
        return "an empty file", FETCH
    if isinstance(error, (zipfile.BadZipFile, EOFError)):
        return "a file that is cut short", FETCH
    if named := re.search(r"GLOBAL (\S+)", text):
        return f"{named[1]} beside tensors, and ran nothing of it", ALONE
    unknown = "Weights only load failed" in text or not text  # torch advises to run what may be code
    return "no file of torch.save" + ("" if unknown else f" ({text.splitlines()[0][:120]})"), ALONE


def _content(state: Any) -> str:
    if not isinstance(state, dict):
        return f"a {type(state).__name__}"
    others = [repr(name) for name, value in state.items() if not isinstance(value, Tensor)]
    return f"other things than tensors, under {some(others, 3)}"


def _difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The first names that are missing, too many, or of another shape."""
    sizes = [
        f"{name} {list(found[name].shape)} in place of {list(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    parts = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "size mismatch for": sizes,
    }
    return "; ".join(f"{what} {some(names, 2)}" for what, names in parts.items() if names)
