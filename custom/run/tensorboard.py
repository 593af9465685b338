"""The rows of ``metrics.csv`` as TensorBoard's event files."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine

from .. import distributed
from .output import Output
from .tracker import Rows

logger = logging.getLogger(__name__)

ROOM_BYTES = 1 << 20  # more than a row, or than a picture


class TensorBoard:
    """Writes each row into event files in ``tensorboard/``: a scalar a column, over the optimiser step.

    What cannot be written is kept and tried again with the next row. A resumed run goes on in a file of its own, which
    tells TensorBoard to forget the points that are computed anew: no curve has a point twice.

    Args:
        output: the run's folder; ``tensorboard/`` is made in it at the first row.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.folder = output.folder / "tensorboard"
        self._writer: Any = None
        self._written = 0  # rows
        self._warned = False

    def attach(self, engine: Engine) -> None:
        if distributed.rank() == 0:
            self.output.trackers.append(self)

    def begin(self, rows: Rows) -> None:
        before = any(self.folder.glob("events.out.tfevents.*"))
        self._written = max(len(rows) - 1, 0) if before else 0  # a killed process may have taken its last row along

    def update(self, rows: Rows) -> None:
        self._guarded(lambda: self._write(rows))

    def finish(self, rows: Rows) -> None:
        self._guarded(lambda: self._write(rows))
        pictures = sorted(self.output.folder.glob("*.png"))
        self._guarded(lambda: self._show(pictures, int(rows[-1]["step"]) if rows else 0))

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(Exception):  # said already, when a row could not be written
                writer.close()

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except ImportError as error:
            self._say(logging.INFO, f"No TensorBoard files are written: {error}")
        except Exception as error:  # whatever it is, it does not stop a training
            self._say(logging.WARNING, f"Cannot write {self.folder}: {error}; every row is in metrics.csv.")

    def _say(self, level: int, text: str) -> None:
        if not self._warned:
            logger.log(level, "%s", text)
        self._warned = True

    def _write(self, rows: Rows) -> None:
        for row in rows[self._written :]:
            with self._writing(int(row["step"])) as writer:
                for column, value in row.items():
                    if column != "step":
                        writer.add_scalar(column, float(value), int(row["step"]))
            self._written += 1

    def _show(self, pictures: Sequence[Path], step: int) -> None:
        import numpy as np
        from PIL import Image

        for path in pictures:
            with self._writing(step) as writer, Image.open(path) as picture:
                writer.add_image(path.stem, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[Any]:
        """Torch's writer, when there is room to write; what it is given is on the disk at the end.

        It writes in a thread, which prints a traceback where it fails: on a full disk one for each row. So it is asked
        for nothing while a file of ``ROOM_BYTES`` cannot be written. A disk that fills up in between costs one.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        room = self.folder / ".room"
        try:
            room.write_bytes(bytes(ROOM_BYTES))
        finally:
            room.unlink(missing_ok=True)
        try:
            self._writer = self._writer or SummaryWriter(str(self.folder), purge_step=step)
            yield self._writer
            self._writer.flush()
        except Exception:
            self.close()  # its thread may have ended; the next one makes TensorBoard forget from its own first step on
            raise
