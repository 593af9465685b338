"""Predictions written in a thread, while the network works on the next scan.

Named in configs as the last transform of ``postprocessing`` and among the handlers: ``{_target_:
scripts.inference.saving.SavePredictiond, output_dir: '@predictions', label_values: '@label_values', ...}``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.transforms import SaveImaged

from .writer import GridWriter, case_name, named


class SavePredictiond(SaveImaged):
    """Writes ``CASE_POSTFIX`` with the suffix ``output_ext`` for the label map under ``pred``, by :class:`.writer.GridWriter`.

    One label map is written at a time; the next one waits for it. What writing raises is raised with the next case, or
    at the end of the run, of which this is a handler too.

    Args:
        output_dir: an absolute path; it is made where it is not there.
        label_values: of the task's classes.
        output_postfix: follows a case's name.
        output_ext: ``.png`` applies to pictures alone, see :func:`.writer.named`.

    Raises:
        GridError, ValuesError, FileError: of the writer.
    """

    def __init__(
        self, output_dir: str | Path, label_values: list[int], output_postfix: str = "pred", output_ext: str = ".nii.gz"
    ) -> None:
        super().__init__("pred", output_dir=output_dir, separate_folder=False, print_log=False)
        self.folder, self.label_values = Path(output_dir), label_values
        self.postfix, self.ext = output_postfix, output_ext
        self.written: Callable[[Path, str], None] | None = None
        """Is called, by the thread, with the path and the SHA-256 of each file just before it takes its name."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prediction")
        self._writing: Future[None] | None = None

    def path_of(self, image: str | Path) -> Path:
        """The path of the prediction for an image's file. A modality in the postfix (``second_pred``) is not repeated:
        that of ``p01_second.nii.gz`` has one name, whether it was asked for by its modality or not."""
        case = case_name({"filename_or_obj": str(image)})["subject"].removesuffix(".nii.gz")
        modality, _, pred = self.postfix.rpartition("_")
        # in a folder of the modality p01 and p01_second may be two scans
        if modality and pred == "pred" and Path(image).parent.name != modality:
            case = case.removesuffix(f"_{modality}")
        return named(self.folder / f"{case}_{self.postfix}{self.ext}", image)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.finish()
        self.folder.mkdir(parents=True, exist_ok=True)
        prediction = data["pred"]
        writer = GridWriter(self.label_values, self.written)
        writer.set_data_array(prediction)
        writer.set_metadata(prediction.meta)
        self._writing = self._thread.submit(writer.write, self.path_of(prediction.meta["filename_or_obj"]))
        return dict(data)

    def finish(self) -> None:
        """Wait until nothing is being written; raises what the writing raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
