"""What an unpacked bundle must be before it takes its place.

A bundle is code: ``scripts/`` and expressions in its configs run when it is used, and no check here changes that. What
is refused is code where nobody looks for it, in a file of weights. ``model.ts`` and ``model.onnx`` are programs and are not
judged: nothing here opens them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from packaging.version import InvalidVersion, Version

from .archive import ArchiveError

WEIGHTS = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}


def check(bundle: Path, version: Version) -> None:
    """The expected version, no large files to be fetched later, and weights that are tensors and nothing else.

    Raises:
        ArchiveError: names the file; found, expected.
    """
    found = version_of(bundle)
    if found != version:
        raise ArchiveError(f"configs/metadata.json: version {found}, expected {version}. Nothing was installed.")
    for path in sorted(bundle.glob("large_files*")):
        raise ArchiveError(
            f"{path.name}: files to be fetched later are not covered by the SHA-256 of the archive. Its weights belong "
            "into it. Nothing was installed."
        )
    for path in sorted(p for p in bundle.rglob("*") if p.suffix.lower() in WEIGHTS and p.is_file()):
        check_weights(path, str(path.relative_to(bundle)))


def version_of(bundle: Path) -> Version:
    """The version in ``configs/metadata.json``.

    Raises:
        ArchiveError: there is none.
    """
    path = bundle / "configs/metadata.json"
    try:
        return Version(json.loads(path.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, LookupError, TypeError, InvalidVersion) as error:
        raise ArchiveError(f"configs/metadata.json of {bundle.name} gives no version: {error}.") from error


def check_weights(path: Path, name: str) -> None:
    """A state dict as ``torch.save`` writes it: names and tensors.

    Raises:
        ArchiveError: anything else. Nothing that it may hold was run.
    """
    import torch

    refusal = f"{name}: not a plain state dict: {{}}. Nothing of it was run, nothing was installed."
    try:
        with zipfile.ZipFile(path) as file:
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArchiveError(refusal.format("not a file of torch.save")) from error
    if packed:  # torch.save stores; a reader would unpack without a limit
        raise ArchiveError(refusal.format("compressed inside"))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a crafted file provokes; torch's own text advises to switch the check off
        raise ArchiveError(refusal.format("torch.load(weights_only=True) refuses it")) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ArchiveError(refusal.format("it holds other things than tensors by name"))
