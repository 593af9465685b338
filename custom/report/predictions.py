"""Pictures of an inference's results: is what was drawn where it should be?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from ..cohort.formats import open_scan
from ..cohort.label_formats import as_classes
from ..cohort.names import stem
from . import preview

FOLDER, SHEET = "pictures", "all.png"
MOST = 96  # pictures on a sheet; further cases have theirs alone


class PredictionPictures:
    """Handler of an inference: ``pictures/CASE.png`` for every case, the slice with most of what was drawn, and at the end
    ``pictures/all.png``, all of them on one sheet. Of an image of several modalities the first is shown.

    Args:
        output_dir: an absolute path, that of the predictions.
        classes: names, background first.
        label_values: of the classes in what is written.
        wanted: False draws nothing.
        kept: image and prediction of cases that an earlier run segmented; they are drawn at the end.
    """

    def __init__(
        self,
        output_dir: str | Path,
        classes: Sequence[str],
        label_values: Sequence[int],
        wanted: bool = True,
        kept: Sequence[tuple[str, Path]] = (),
    ) -> None:
        self.folder, self.classes, self.values = Path(output_dir) / FOLDER, classes[1:], label_values
        self.wanted, self.kept = wanted, kept
        self._drawn: list[preview.Preview] = []

    def attach(self, engine: Engine) -> None:
        if self.wanted:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)
            engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, engine: Engine) -> None:
        cases: Any = engine.state.batch  # case by case, as the post-processing leaves them
        output: Any = engine.state.output
        for case, of_case in zip(cases, output, strict=True) if output else ():  # a refused case has no output
            self._draw(Path(str(case["image"].meta["filename_or_obj"])), np.asarray(of_case["pred"][0]))

    def finish(self) -> None:
        """Draw the cases that were kept, and the sheet."""
        for image, prediction in self.kept if self.wanted else ():
            self._draw(Path(image), open_scan(prediction, preview.MOST).voxels)
        if self._drawn:
            preview.write_sheet(sorted(self._drawn, key=lambda one: one.title), self.classes, self.folder / SHEET)
            self._drawn.clear()

    def _draw(self, image: Path, voxels: np.ndarray) -> None:
        one = preview.preview(image, as_classes(voxels, self.values), stem(str(image)))
        self.folder.mkdir(parents=True, exist_ok=True)
        preview.write(one, self.classes, self.folder / f"{one.title}.png")
        if len(self._drawn) < MOST:
            self._drawn.append(one)
