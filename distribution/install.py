"""Puts an unpacked bundle in the place of an older one, so that a kill at any moment loses nothing.

In the folder of the bundles, beside ``NAME/``::

    .NAME.new/            unpacked, being checked; litter, unless the journal names it
    .NAME.replace.json    the journal: written when `.NAME.new` is complete, removed when all is done
    NAME.old-VERSION/     what was there before; it stays when its user had changed files of it
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from packaging.version import Version

from custom.errors import UserError
from custom.files import write_text

from .archive import USERS
from .contents import version_of
from .packing import digest

RECORD = ".download.json"  # in a bundle: where it came from, and the SHA-256 of each file

logger = logging.getLogger(__name__)


class InstallError(UserError, RuntimeError):
    """Something else stands where a bundle should go."""


class Place:
    """The place of one bundle; its caller holds the lock on ``folder``.

    Args:
        folder: of the bundles.
        name: of this one.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.bundle = folder / name
        self.new = folder / f".{name}.new"
        self.journal = folder / f".{name}.replace.json"

    def repair(self) -> None:
        """Finish what a killed call had begun, or sweep it away."""
        if self.journal.exists():
            logger.info("%s: an earlier replacement was interrupted; it is finished now.", self.bundle)
            self._finish()
        elif self.new.exists():
            shutil.rmtree(self.new)

    def version(self) -> Version | None:
        """Version of the bundle that is there, or None.

        Raises:
            InstallError: a link, a file, or a folder without ``configs/metadata.json``.
        """
        if not os.path.lexists(self.bundle):
            return None
        if self.bundle.is_symlink() or not self.bundle.is_dir():
            raise InstallError(f"{self.bundle} is a link or a file: move it away, or choose another folder with --to.")
        try:
            return version_of(self.bundle)
        except UserError as error:
            raise InstallError(
                f"{self.bundle} is there but is not a bundle ({error}) Move it away, or choose another folder with --to."
            ) from error

    def install(self, sha256: str, url: str) -> None:
        """``.NAME.new``, checked, takes the place; the user's ``data`` and ``eval`` move over to it.

        Args:
            sha256: of the archive it came from.
            url: where that was.
        """
        files = {str(path.relative_to(self.new)): digest(path) for path in _files(self.new)}
        record = {"version": str(version_of(self.new)), "sha256": sha256, "url": url, "files": files}
        write_text(self.new / RECORD, json.dumps(record, indent=1) + "\n")
        if self.bundle.exists():
            write_text(self.journal, json.dumps({"old": self._aside().name}))
            self._finish()
        else:
            os.rename(self.new, self.bundle)

    def changed(self) -> list[str]:
        """Files of the bundle that are not as they were downloaded, or gone, apart from the user's folders."""
        missing = [name for name in _record(self.bundle).get("files", {}) if not os.path.lexists(self.bundle / name)]
        return _changed(self.bundle) + missing

    def archive_sha256(self) -> str | None:
        """SHA-256 of the archive that the bundle came from, where that is known."""
        return _record(self.bundle).get("sha256")

    def _aside(self) -> Path:
        first = self.bundle.with_name(f"{self.bundle.name}.old-{version_of(self.bundle)}")
        return next(p for p in _numbered(first) if not os.path.lexists(p))

    def _finish(self) -> None:
        """Go on from the journal. Each step finds out whether it was done; so it may be called again after a kill."""
        old = self.journal.with_name(json.loads(self.journal.read_text(encoding="utf-8"))["old"])
        if self.new.exists():
            if self.bundle.exists():
                os.rename(self.bundle, old)
            os.rename(self.new, self.bundle)
        for name in USERS:
            if os.path.lexists(old / name) and not os.path.lexists(self.bundle / name):
                os.rename(old / name, self.bundle / name)
        self._clear(old)
        self.journal.unlink()
        if (self.bundle / "eval/bundle/models/model.pt").exists():
            logger.info(
                "%s: eval/ was kept, and with it the network trained there, which goes before the downloaded weights "
                "(move eval/ away, or give --model_file).",
                self.bundle,
            )

    def _clear(self, old: Path) -> None:
        if not old.exists():
            return
        changed = _changed(old) + [name for name in USERS if os.path.lexists(old / name)]
        if not _record(old):
            logger.info("%s: which files of the old folder are yours is not known; it is kept as %s.", self.bundle, old)
        elif changed:
            shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
            logger.info("%s: you had changed %s; the old folder is kept as %s.", self.bundle, shown, old)
        else:
            shutil.rmtree(old)


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}")
        number += 1


def _files(bundle: Path) -> list[Path]:
    """All files except the record, the user's folders and what Python leaves."""
    paths = sorted(p for p in bundle.rglob("*") if p.is_symlink() or not p.is_dir())
    return [
        path
        for path in paths
        if (inside := path.relative_to(bundle)).parts[0] not in (*USERS, RECORD) and "__pycache__" not in inside.parts
    ]


def _record(bundle: Path) -> dict:
    try:
        return json.loads((bundle / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not downloaded by us: nothing of it is known
        return {}


def _changed(bundle: Path) -> list[str]:
    known = _record(bundle).get("files", {})
    return [
        str(path.relative_to(bundle))
        for path in _files(bundle)
        if not path.is_file() or known.get(str(path.relative_to(bundle))) != digest(path)
    ]
