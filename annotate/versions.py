"""The weights that a work folder has served, each version in a folder of its own; one of them serves.

``models`` in the bundle's folder is a link to ``versions/NNNN``. A new version is written aside, forced to the disk and
renamed to its number; then the link is replaced by another in one rename: all networks of a version go into service
together. Killed before that rename the earlier version serves, killed after it the new one; there is no third state.

``python -m annotate.versions WORK/model/NAME --list`` lists them, ``--restore 0002`` puts an earlier one into service; a
server that is running serves it from the next request on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from custom.cohort.intensities import FILE
from custom.errors import UserError, show_plainly
from custom.files import typed

NUMBER = re.compile(r"\d{4,}")
RECORD = "version.json"


class VersionError(UserError, RuntimeError):
    """There is no such version, or none can be put into service."""


class Versions:
    """The versions of one bundle.

    Args:
        root: the bundle's folder; ``root/models`` is a link, or absent while nothing was trained.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.folder = self.root / "versions"
        self.link = self.root / "models"

    def names(self) -> list[str]:
        """Numbers of the kept versions, the oldest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else []
        return sorted((path.name for path in found if NUMBER.fullmatch(path.name)), key=int)

    def served(self) -> str | None:
        """The number of the version in service."""
        return Path(os.readlink(self.link)).name if self.link.is_symlink() else None

    def record(self, name: str) -> dict[str, Any]:
        """What is known of a version: ``date``, ``sha256`` of its files, ``labelled`` scans it learnt, figures."""
        return json.loads((self._existing(name) / RECORD).read_text(encoding="utf-8"))

    def learnt(self) -> set[str]:
        """Ids of the scans that any kept version was trained on with their labels."""
        return {scan for name in self.names() for scan in self.record(name)["labelled"]}

    def add(self, networks: Mapping[str, Path], **known: Any) -> str:
        """Copy the networks (``{"model": path, ...}``), and what lies beside them of the intensities in training, into a new
        version, which does not serve yet; returns its number.

        Args:
            known: what its record says beside date and SHA-256; ``labelled``: ids of the scans it was trained on.
        """
        name = f"{max(map(int, self.names()), default=0) + 1:04d}"
        aside = self.folder / f".{name}.{os.getpid()}.tmp"
        aside.mkdir(parents=True)
        try:
            sums = {f"{stem}.pt": _copy(path, aside / f"{stem}.pt") for stem, path in networks.items()}
            if networks and (seen := next(iter(networks.values())).with_name(FILE)).is_file():
                _copy(seen, aside / FILE)
            date = datetime.now().astimezone().isoformat(timespec="seconds")
            record = {"version": name, "date": date, "labelled": [], **known, "sha256": sums}
            _write(aside / RECORD, json.dumps(record, indent=2, allow_nan=False) + "\n")
            _force(aside)
            os.rename(aside, self.folder / name)
            _force(self.folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return name

    def serve(self, name: str) -> None:
        """Put a version into service.

        Raises:
            VersionError: there is no such version; ``models`` is not a link, so that nothing here may replace it; the
                disk knows no links.
        """
        target = self._existing(name)
        if self.link.exists() and not self.link.is_symlink():
            raise VersionError(
                f"{self.link} is a folder, expected a link. Start the work folder anew with annotate.start"
            )
        aside = self.link.with_name(f".models.{os.getpid()}.tmp")
        aside.unlink(missing_ok=True)
        try:
            os.symlink(os.path.relpath(target, self.root), aside, target_is_directory=True)
        except OSError as error:
            raise VersionError(
                f"{self.root} is on a file system without links ({error.strerror}), which hold the version that serves. "
                "Choose another --work"
            ) from error
        os.replace(aside, self.link)
        _force(self.root)

    def sweep(self) -> None:
        """Remove what a killed process left unfinished; call it while no other process adds a version."""
        for litter in [*self.folder.glob(".*.tmp"), *self.root.glob(".models.*.tmp")]:
            shutil.rmtree(litter) if litter.is_dir() and not litter.is_symlink() else litter.unlink()

    def _existing(self, name: str) -> Path:
        if name not in self.names():
            kept = ", ".join(self.names()) or "none"
            raise VersionError(f"there is no version {name!r} in {self.folder}; kept are {kept}")
        return self.folder / name


def _copy(source: Path, target: Path) -> str:
    """The file's SHA-256, of the bytes that were written."""
    content = source.read_bytes()
    _write(target, content)
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: str | bytes) -> None:
    with path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def _force(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def line(record: Mapping[str, Any], serves: bool) -> str:
    """``* 0002  2026-11-23T10:02:11+00:00  Dice 0.812 (before: 0.790), 2 to judge by  labelled scans: 6``."""
    text = f"{'*' if serves else ' '} {record['version']}  {record['date']}"
    if record.get("dice"):
        dice = {name: "-" if value is None else f"{value:.3f}" for name, value in record["dice"].items()}
        text += f"  Dice {dice['candidate']} (before: {dice['served']}), {len(record['validation'])} to judge by"
    learnt = record.get("source") or f"labelled scans: {len(record['labelled'])}"
    return f"{text}  {learnt}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    show_plainly()
    parser = argparse.ArgumentParser(prog="python -m annotate.versions", description="The versions of served weights.")
    parser.add_argument("root", type=typed, help="the bundle in the work folder: WORK/model/NAME")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="all kept versions; * marks the one that serves")
    what.add_argument("--restore", metavar="NUMBER", help="put this version into service")
    options = parser.parse_args(arguments)
    versions = Versions(options.root)
    if options.restore:
        versions.serve(options.restore)
        print(f"Version {options.restore} serves now.")
        return
    if not versions.names():
        raise VersionError(
            f"{options.root} has no versions. Expected WORK/model/NAME of a work folder that was trained in"
        )
    for name in versions.names():
        print(line(versions.record(name), name == versions.served()))


if __name__ == "__main__":
    main()
