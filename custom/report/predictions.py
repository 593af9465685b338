"""Pictures of an inference's results: is what was drawn where it should be?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

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
    """

    def __init__(
        self, output_dir: str | Path, classes: Sequence[str], label_values: Sequence[int], wanted: bool = True
    ) -> None:
        self.folder, self.classes, self.values, self.wanted = (
            Path(output_dir) / FOLDER,
            classes[1:],
            label_values,
            wanted,
        )
        self._drawn: list[preview.Preview] = []

    def attach(self, engine: Engine) -> None:
        if self.wanted:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)
            engine.add_event_handler(Events.COMPLETED, self._sheet)

    def __call__(self, engine: Engine) -> None:
        cases: Any = engine.state.batch  # case by case, as the post-processing leaves them
        output: Any = engine.state.output
        for case, of_case in zip(cases, output, strict=True) if output else ():  # a refused case has no output
            file = Path(str(case["image"].meta["filename_or_obj"]))
            mask = as_classes(np.asarray(of_case["pred"][0]), self.values)
            one = preview.preview(file, mask, stem(str(file)))
            self.folder.mkdir(parents=True, exist_ok=True)
            preview.write(one, self.classes, self.folder / f"{stem(str(file))}.png")
            if len(self._drawn) < MOST:
                self._drawn.append(one)

    def _sheet(self) -> None:
        if self._drawn:
            preview.write_sheet(self._drawn, self.classes, self.folder / SHEET)
            self._drawn.clear()
