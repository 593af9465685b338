"""Segment one scan for an annotator."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from annotate.bundle import Served
from annotate.uploads import turned
from annotate.versions import Versions
from custom.cohort.formats.exif import exif_orientation
from custom.cohort.formats.itk_image import is_picture
from custom.errors import UserError

RESULTS = (".nii.gz", ".nii", ".nrrd", ".png")

logger = logging.getLogger(__name__)


class UnknownForm(UserError, ValueError):
    """A result was asked for in a form that is not written."""


class TurnedPicture(UserError, ValueError):
    """A picture says in EXIF how it is to be turned."""


class BundleInfer(InferTask):
    """The serving network's class of each voxel, on the image's own grid.

    Not MONAI Label's own task for bundles: that one keeps a network while the file's time of writing stays the same (two
    versions restored in one second are one to it), imports ``scripts`` anew around every request, and cannot begin
    without weights.

    Args:
        name: of the model.
        served: the bundle.
    """

    def __init__(self, name: str, served: Served) -> None:
        labels = {name.lower(): value for name, value in served.segments.items() if value}
        dimension = 2 if served.pictures else 3  # of images, not of the network
        super().__init__(InferType.SEGMENTATION, labels, dimension, served.metadata.get("description", ""))
        self.name, self.served = name, served

    def is_valid(self) -> bool:
        return True  # also before the first training: a request then says what to do

    def get_path(self, validate: bool = True) -> str | None:
        path = self.served.networks().get("model")
        return str(path) if path else None

    def info(self) -> dict[str, Any]:
        return {**super().info(), "version": self.served.metadata.get("version")}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Path of the label's file, and what was used for it.

        Args:
            request: ``image``: its path; ``result_extension``: one of :data:`RESULTS`, by default that of the image's kind.

        Raises:
            NoWeights: nothing was trained yet.
            UnknownForm: another ``result_extension``; PNG for an image of another kind than PNG and JPEG.
            UnfitScan: the bundle's own inference would refuse the scan.
            IntensityError: the network would see nonsense.
            TurnedPicture: a picture that viewers show in another way than 3D Slicer.
        """
        image = Path(request["image"])
        if (picture := is_picture(image)) and exif_orientation(image) != 1:
            raise TurnedPicture(turned(image))
        suffix = request.get("result_extension") or (".png" if picture else ".nii.gz")
        if suffix not in RESULTS:
            raise UnknownForm(
                f"result_extension is {suffix!r}, expected one of {', '.join(RESULTS)}. Leave it out or correct it"
            )
        if suffix == ".png" and not picture:
            raise UnknownForm(
                f"result_extension is '.png', but {Path(request['image']).name} is not a picture, and a PNG holds no voxel "
                "sizes. Leave it out"
            )
        start = time.monotonic()
        versions = Versions(self.served.root)
        while True:  # a training may end meanwhile; the reply names the version that made it
            version, weights = versions.served(), self.served.version()
            pred = self.served.predict(request["image"], judged=True)
            if versions.served() == version:
                break
        with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
            path = Path(file.name)
        try:
            self.served.write(pred, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        seconds = round(time.monotonic() - start, 2)
        logger.info("%s segmented in %.2f s", Path(request["image"]).name, seconds)
        return str(path), {
            "label_names": self.labels,
            "model": self.name,
            "version": version,
            "weights": weights,
            "seconds": seconds,
        }
