"""The app: one bundle, its inference, its training and the strategies that choose the next scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from annotate.bundle import Served
from annotate.infer import BundleInfer
from annotate.strategies import strategies
from annotate.study import ORDER
from annotate.train import BundleTrain


class AnnotateApp(MONAILabelApp):
    """MONAI Label finds the class by the name of its direct base, in the ``main.py`` of the work folder.

    Args:
        app_dir: the work folder, with the bundle in ``model/NAME``.
        studies: the folder of images.
        conf: ``models``: NAME.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.model = conf["models"]
        self.served, self.order = Served(Path(app_dir) / "model" / self.model), Path(app_dir) / ORDER
        super().__init__(
            app_dir,
            studies,
            conf,
            name=f"Semi-supervised segmentation: {self.model}",
            description=self.served.metadata.get("description", ""),
            version=self.served.metadata.get("version", ""),
        )

    def init_infers(self) -> dict[str, InferTask]:
        return {self.model: BundleInfer(self.model, self.served)}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {self.model: BundleTrain(self.served)}

    def init_strategies(self) -> dict[str, Strategy]:
        return strategies(self.served, self.order)

    def init_batch_infer(self) -> Any:
        return None
