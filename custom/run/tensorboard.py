"""The rows of ``metrics.csv`` as TensorBoard's event files."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .tracker import Rows

logger = logging.getLogger(__name__)


class TensorBoard:
    """Writes each row into event files below ``folder``: a scalar a column, over the optimiser step.

    What cannot be written is kept and tried again with the next row. A resumed run goes on in a file of its own, which
    tells TensorBoard to forget the points that are computed anew: no curve has a point twice.

    Args:
        folder: made at the first row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: _EventFile | None = None
        self._written = 0  # rows
        self._warned = False

    def begin(self, rows: Rows) -> None:
        before = any(self.folder.glob("events.out.tfevents.*"))
        self._written = max(len(rows) - 1, 0) if before else 0  # a killed process may have taken its last row along

    def update(self, rows: Rows) -> None:
        self._guarded(lambda: self._write(rows))

    def finish(self, rows: Rows, pictures: Sequence[Path]) -> None:
        self._guarded(lambda: self._write(rows))
        self._guarded(lambda: self._show(pictures, int(rows[-1]["step"]) if rows else 0))

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # told already, when a row could not be written
                file.close()

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except ImportError as error:
            self._say(logging.INFO, f"No TensorBoard files are written: {error}")
        except Exception as error:  # whatever it is, it does not stop a training
            self._say(logging.WARNING, f"Cannot write {self.folder}: {error}; every row is in metrics.csv.")
            self.close()

    def _say(self, level: int, text: str) -> None:
        if not self._warned:
            logger.log(level, "%s", text)
        self._warned = True

    def _write(self, rows: Rows) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for row in rows[self._written :]:
            scalars = [Summary.Value(tag=k, simple_value=float(v)) for k, v in row.items() if k != "step"]
            self._add(scalars, int(row["step"]))
            self._written += 1

    def _show(self, pictures: Sequence[Path], step: int) -> None:
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        for path in pictures:
            with Image.open(path) as picture:
                (width, height), channels = picture.size, len(picture.getbands())
            png = Summary.Image(width=width, height=height, colorspace=channels, encoded_image_string=path.read_bytes())
            self._add([Summary.Value(tag=path.stem, image=png)], step)

    def _add(self, values: Sequence[Any], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._file = self._file or _EventFile(self.folder, purge_step=step)
        self._file.write(step=step, summary=Summary(value=values))


class _EventFile:
    """Events, each on disk when ``write`` returns.

    torch's SummaryWriter hands them to a thread; on a full disk that prints a page of traceback for every row.

    Args:
        folder: made where it is missing.
        purge_step: TensorBoard forgets what earlier files of the folder say of this step and those behind it.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)  # files are read in the order of their names
        name = f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}.{socket.gethostname()}"
        self._stream = (folder / name).open("xb")
        self._records = RecordWriter(self._stream)
        self.write(file_version="brain.Event:2")
        self.write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()
