"""Which predictions of a folder are whole and as this inference would make them: a run that was killed goes on with the others.

``predictions.jsonl`` beside them has a line for each that was written: its SHA-256, that of the weights, digests of the settings
that decide a prediction, of the code and libraries that made it, and of the names, sizes and times of the image's files, and what
else is noted of it. The line is there
before the prediction takes its name, so that no moment of a kill leaves one without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from .. import code
from ..cohort.formats import ScanFault, load_libraries, open_scan
from ..cohort.record import signature
from ..cohort.words import first_names, plural
from ..errors import UserError
from ..files import FileError, entries, sweep
from ..run.config import RunConfig
from ..run.folder import RunFolder
from ..run.trained import decisive
from ..stream.identity import LIBRARIES
from .saving import SavePredictiond
from .weight_files import WeightsError

FILE = "predictions.jsonl"
REASONS = {
    "weights": "by other weights",
    "settings": "under other settings",
    "code": "by other code or libraries",
    "image": "of an image that has changed",
}
ROOM = Path(__file__).resolve().parents[1]
CODE = tuple(file for part in ("cohort", "inference", "networks") for file in (ROOM / part).rglob("*.py"))
MOST_VOXELS = 2**33

logger = logging.getLogger(__name__)

_folders: dict[Path, RunFolder] = {}  # that this process holds: a second inference of it may go on in the same one


class NotOurs(UserError, FileExistsError):
    """A file lies in the place of a prediction, and no inference is known to have written it."""


class AmongImages(UserError, ValueError):
    """Predictions would lie where the images are, and a second inference would segment them."""


class Made:
    """What an inference may keep of its folder, and the record of what it writes.

    The folder is held for one inference at a time, from :meth:`missing`, or from the start of the run where it is not there
    yet, to the end of the run, of which this is a handler.

    Args:
        saving: writes the predictions.
        weights: the file; of networks that read one modality each, what gives the files by modality.
        config: of the inference.
        again: every scan is segmented anew.
        notes: what else a line must say, by whoever fills :attr:`noted` before the prediction is written.

    Raises:
        NotOurs, AmongImages: of :meth:`missing`; nothing was touched.
        RunFolderError: of :meth:`missing` and at the start: the folder cannot be written, or another inference has it.
    """

    def __init__(
        self,
        saving: SavePredictiond,
        weights: str | Path | Callable[[], Mapping[str, Path]],
        config: RunConfig,
        again: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        self.saving, self.weights, self.config, self.again, self.notes = saving, weights, config, again, notes
        self.kept: list[tuple[str, Path]] = []
        """Image, the first file of each scan, and prediction."""
        self.noted: dict[Path, dict[str, Any]] = {}
        """What else is known of a prediction, by its path; of those that are kept, from their lines."""
        self._wanted: dict[str, dict[str, str]] = {}  # what a prediction depends on, by its name
        self._digests: dict[Path, str] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._hold)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def _hold(self) -> None:
        _folders.setdefault(self.saving.folder, RunFolder(self.saving.folder)).open()

    def close(self) -> None:
        """Wait for the last prediction and let another inference have the folder."""
        self.saving.finish()
        if held := _folders.pop(self.saving.folder, None):
            held.close()

    def missing(self, images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The scans of ``images`` that have no whole prediction by these weights, settings and code, of the image as it is
        now; what is kept is said in one line.

        Args:
            images: entries with the paths under ``image``: one, a list, or by modality.
        """
        folder = self.saving.folder
        _judge_place(folder, images)
        if folder.is_dir():  # else it is made when the scans are found to be good
            self._hold()
        self.saving.written = self._record
        settings = _digest(json.dumps(decisive(self.config), sort_keys=True, default=str).encode())
        before, there = _lines(folder / FILE), {path.name for path in entries(folder)}
        missing, foreign, why = [], [], Counter[str]()
        self.kept.clear()
        for entry in images:
            first = _files(entry)[0]
            path = self.saving.path_of(first)
            self._wanted[path.name] = wanted = {
                "weights": self._weights(entry),
                "settings": settings,
                "code": code.digest(CODE, LIBRARIES),
                "image": _image(entry),
            }
            line = _line_of(path, before.get(path.name, [])) if path.name in there else None
            reason = "" if line is None else next((REASONS[key] for key in wanted if line.get(key) != wanted[key]), "")
            if line is not None and not reason:
                reason = next((f"without its {key}" for key in self.notes if key not in line), "")
            if line is not None and not reason and not self.again:
                self.kept.append((first, path))
                self.noted[path] = {key: line[key] for key in self.notes}
                continue
            missing.append(dict(entry))
            if line is None and path.name in there:
                if _readable(path):
                    foreign.append(path.name)
                reason = "damaged"
            if path.name in there:
                why[reason or "as again is true"] += 1
        if foreign:
            raise NotOurs(
                f"{folder} holds {plural(len(foreign), 'file')} in the place of predictions that no inference wrote there "
                f"like this ({first_names(foreign)}): drawn, changed since, or of an earlier version. They are not "
                "overwritten: move them away, or give another --output_dir."
            )
        sweep(folder, self._wanted)
        self._say(len(images), why)
        return missing

    def _say(self, total: int, why: Mapping[str, int]) -> None:
        anew = ", ".join(f"{count} {reason}" for reason, count in why.items())
        parts = [f"{len(self.kept)} of {plural(total, 'scan')} segmented already and kept"] if self.kept else []
        parts += [f"made anew: {anew}"] if anew else []
        if parts:
            logger.info("Predictions: %s.", "; ".join(parts))

    def _weights(self, entry: Mapping[str, Any]) -> str:
        """Their digest; empty where nothing reads the entry, which the network's own handler says."""
        try:
            files = self.weights() if callable(self.weights) else {}
        except WeightsError:
            return ""
        file = files.get(entry["modality"]) if callable(self.weights) else Path(self.weights)
        if file is None:
            return ""
        if file not in self._digests:
            self._digests[file] = _digest(file.read_bytes())
        return self._digests[file]

    def _record(self, path: Path, sha256: str) -> None:
        """A line of its own, on the disk before the prediction is in its place."""
        noted = self.noted.get(path, {})
        line = json.dumps({"prediction": path.name, "sha256": sha256, **self._wanted[path.name], **noted}) + "\n"
        file = path.with_name(FILE)
        try:
            with file.open("ab+") as stream:
                if stream.tell() and not _ends_a_line(stream):  # of a writer that was killed
                    line = "\n" + line
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise FileError(f"Cannot write {file}: {error.strerror or error}. {path.name} was not written.") from error


def _judge_place(folder: Path, images: Sequence[Mapping[str, Any]]) -> None:
    """Raise AmongImages where predictions would lie beside an image, or among the files of a DICOM series."""
    for file in (Path(file) for entry in images for file in _files(entry)):
        if folder.resolve() in (file.parent.resolve(), file.resolve()):
            raise AmongImages(
                f"output_dir is {folder}, where the images are ({file.name}): the same command would take predictions for "
                "images. Give another --output_dir, a folder of its own."
            )


def _lines(file: Path) -> dict[str, list[dict[str, Any]]]:
    """What is recorded, by the name of the prediction, oldest first; a line that is not whole does not count."""
    found: dict[str, list[dict[str, Any]]] = {}
    for text in file.read_bytes().splitlines() if file.is_file() else ():
        try:
            line = json.loads(text)
            found.setdefault(line["prediction"], []).append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _line_of(path: Path, lines: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The last line about this very file; None where its bytes are not what was written."""
    sha256 = _digest(path.read_bytes()) if lines and path.is_file() else ""
    return next((line for line in reversed(lines) if line.get("sha256") == sha256), None)


def _readable(path: Path) -> bool:
    """Whether it may be somebody's work: a scan, or a link or folder that is there for some reason."""
    if not path.is_file() or path.is_symlink():
        return True
    try:
        load_libraries([path])
        open_scan(path, MOST_VOXELS)
    except ScanFault:
        return False
    return True


def _ends_a_line(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"


def _files(entry: Mapping[str, Any]) -> list[str]:
    image = entry["image"]
    several = [image] if isinstance(image, str | Path) else image.values() if isinstance(image, Mapping) else image
    return [str(file) for file in several]


def _image(entry: Mapping[str, Any]) -> str:
    return _digest("".join(signature(file) or "" for file in _files(entry)).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
