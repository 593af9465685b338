"""A bundle's folder opened for inference, by its own config and code, independent of MONAI Label."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImage, SaveImaged
from torch import Tensor, nn

from custom.cohort.case import Case
from custom.cohort.facts import Facts
from custom.cohort.record import Record
from custom.dice import class_dice, mean_dice
from custom.distributed import local_device
from custom.errors import UserError
from custom.inference.state_dict import WeightsError, load
from custom.networks.probabilities import Probabilities, probabilities_of

from .form import image_fault

logger = logging.getLogger(__name__)

FINAL = "_final"  # weights of the last step, kept beside those that validation chose


class NoWeights(UserError, FileNotFoundError):
    """The bundle has not been trained yet."""


class WrongWeights(UserError, ValueError):
    """A file of weights that is damaged, or not of this bundle's network."""


class UnfitScan(UserError, ValueError):
    """A scan that the bundle's own inference would refuse."""


class Served:
    """A bundle and the networks in its ``models/``, which is read anew whenever a file there has changed.

    The bundle's ``scripts`` are imported under a name of their own, and ``scripts.`` in the configs is read as that name.
    Two bundles, each with its own ``scripts``, may so live in one process; and MONAI Label, which throws ``scripts`` out
    of ``sys.modules`` around whatever it does with a bundle, cannot pull a module away from under an import inside of a
    function. It works because modules of ``scripts`` name each other relatively alone.

    Predictions and labels have the bundle's own ``label_values``. Annotators' programs number segments from 1 instead: in the
    order of ``segments``.

    Args:
        root: the bundle's folder, with ``configs``, ``scripts`` and ``models``.
        device: where the network runs; None: on a GPU where there is one, as in the bundle's own inference.
    """

    def __init__(self, root: str | Path, device: str | None = None) -> None:
        self.root, self.device = Path(root), torch.device(device) if device else local_device()
        self._package = _import_scripts(self.root / "scripts")
        self.metadata: dict[str, Any] = json.loads((self.root / "configs/metadata.json").read_text(encoding="utf-8"))
        config = _renamed(ConfigParser.load_config_file(self.root / "configs/inference.yaml"), self._package.__name__)
        self._config: dict[str, Any] = config
        self.classes: list[str] = list(config["classes"])
        self.channels: list[str] = list(config["channels"])
        self.label_values: list[int] = list(config["label_values"])
        self.fill_nonfinite = bool(config.get("fill_nonfinite"))
        self.dimensions, self.slices = int(config["dimensions"]), bool(config["slices"])
        self.orientation: str = config.get("orientation", "")
        self.spacing_mm: Sequence[float] | float | None = config.get("spacing_mm")
        self._read = Record()  # a scan that is asked for again is not read again to be judged
        config |= {"bundle_root": str(self.root), "device": str(self.device)}
        self._parser = ConfigParser(config)
        self._networks: dict[Path, tuple[tuple[int, ...], nn.Module]] = {}
        self._sums: dict[Path, tuple[tuple[int, ...], str]] = {}

    # ---- what there is ---------------------------------------------------------------------------------------------

    @property
    def segments(self) -> dict[str, int]:
        """Names of the classes and their values in label files, in the order of the values: that of a program's segments."""
        return dict(sorted(zip(self.classes, self.label_values, strict=True), key=lambda item: item[1]))

    @property
    def pictures(self) -> bool:
        """Whether images have two axes; the results of PNG and JPEG are then PNG, else NIfTI."""
        return self.dimensions == 2 and not self.slices

    def networks(self) -> dict[str, Path]:
        """``{"model": models/model.pt, "student": models/student.pt, ...}``, the serving one first; never final weights."""
        files = {
            path.stem: path for path in sorted((self.root / "models").glob("*.pt")) if not path.stem.endswith(FINAL)
        }
        return {name: files[name] for name in sorted(files, key=lambda name: (name != "model", name))}

    def version(self) -> str:
        """The first 12 digits of the SHA-256 of ``model.pt``; ``untrained`` without it."""
        path = self.networks().get("model")
        if path is None:
            return "untrained"
        sign = _signature(path)
        if self._sums.get(path, (None,))[0] != sign:
            self._sums[path] = (sign, hashlib.sha256(path.read_bytes()).hexdigest()[:12])
        return self._sums[path][1]

    def module(self, name: str) -> ModuleType:
        """The bundle's ``scripts.NAME``."""
        return importlib.import_module(f"{self._package.__name__}.{name}")

    def new_network(self) -> nn.Module:
        """The bundle's network with random weights."""
        return ConfigParser(self._config).get_parsed_content("network_def")  # a parser remembers what it built

    # ---- what it computes ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logits(self, image: str | Path, weights: str | Path | None = None) -> Tensor:
        """Logits ``(classes, *spatial)`` on the grid that the bundle resamples to; ``weights``: by default ``model.pt``.

        Raises:
            NoWeights: there is no such file.
            WrongWeights: the file is not of this network.
            UnfitScan: the image cannot be read, or the bundle does not take such images; the network has not seen it.
            Exception: whatever the bundle's transforms raise of an image that they cannot use.
        """
        return self._infer(image, weights)["pred"].as_tensor()

    def probabilities(self, weights: str | Path | None = None) -> Probabilities:
        """What a network makes of its logits, as it was trained; raises NoWeights and WrongWeights as :meth:`logits`."""
        return probabilities_of(self._network(weights))

    @torch.no_grad()
    def predict(self, image: str | Path, weights: str | Path | None = None, judged: bool = False) -> MetaTensor:
        """The classes' values ``(1, *spatial)`` on the image's own grid; raises as :meth:`logits`.

        Args:
            judged: refuse an image of which the network would see nonsense, and log one unlike the scans in training.
        """
        steps: Compose = self._parser.get_parsed_content("postprocessing")
        return Compose([s for s in steps.transforms if not isinstance(s, (SaveImage, SaveImaged))])(
            self._infer(image, weights, judged)
        )["pred"]

    def write(self, pred: MetaTensor, path: Path) -> None:
        """Write what :meth:`predict` gave in the smallest number format that holds the task's values, by the suffix of
        ``path``: ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.png``."""
        writer = self.module("inference.writer").GridWriter(label_values=self.label_values)
        writer.set_data_array(pred)
        writer.set_metadata(pred.meta)
        if path.suffix != ".nrrd":
            writer.write(str(path))
            return
        # ITK writes NRRD, the bundle's writer does not
        formats = self.module("cohort.formats.itk_image")
        picture = formats.is_picture(str(pred.meta["filename_or_obj"]))
        first = path.with_name(f"{path.stem}.first{'.png' if picture else '.nii.gz'}")
        try:
            writer.write(str(first))
            itk = formats.quiet_itk()
            itk.imwrite(itk.imread(str(first)), str(path), compression=True)
        finally:
            first.unlink(missing_ok=True)

    def dice(self, cases: list[dict[str, str]], weights: str | Path | None = None) -> float:
        """:func:`custom.dice.mean_dice` on each image's own grid; NaN where no label has a class.

        Args:
            cases: paths under ``image`` and ``label``.
        """
        return mean_dice(self._case_dice(case["image"], case["label"], weights) for case in cases)

    def false_alarms(self, cases: list[dict[str, str]], weights: str | Path | None = None) -> int:
        """Count the classes that a prediction has and its label lacks, over all cases; ``cases`` as in :meth:`dice`."""
        found = [(self.predict(case["image"], weights)[0].numpy(), self._label(case["label"])) for case in cases]
        return sum(bool((a == k).any() and not (b == k).any()) for a, b in found for k in self.label_values[1:])

    def _case_dice(self, image: str, label: str, weights: str | Path | None) -> list[float]:
        found, wanted = self.predict(image, weights)[0].numpy(), self._label(label)
        masks = [(found == k, wanted == k) for k in self.label_values[1:]]
        return [class_dice(int((a & b).sum()), int(a.sum()), int(b.sum())) for a, b in masks]

    def _label(self, path: str) -> np.ndarray:
        reader = self.module("cohort.reader").ScanReader()
        return np.asarray(reader.get_data(reader.read(path))[0]).round().astype(np.int32)

    def _infer(self, image: str | Path, weights: str | Path | None, judged: bool = False) -> dict[str, Any]:
        network = self._network(weights)
        self._judge(Path(image))
        data = self._parser.get_parsed_content("preprocessing")({"image": str(image)})
        if judged and (self.root / "scripts/inference/intensities.py").is_file():  # bundles of earlier versions lack it
            check = self.module("inference.intensities").IntensityCheck(self.root / "models", self.channels)
            if odd := check.judge(data["image"], self.channels, Path(image).name):
                logger.warning("%s is unlike the scans in training after preprocessing: %s.", Path(image).name, odd)
        inferer = self._parser.get_parsed_content("inferer")
        logits = inferer(data["image"].as_tensor()[None].to(self.device), network)[0].float().cpu()
        return {**data, "pred": MetaTensor(logits)}  # Invertd leaves plain tensors as they are

    def _judge(self, image: Path) -> None:
        """Raise UnfitScan, in the words of the cohort check, before the image is turned, resampled or held twice."""
        file = str(image)
        found = self._read.facts([file])[file]
        if not isinstance(found, Facts):
            raise UnfitScan(str(found)) from found
        if fault := image_fault(Case("studies", image.name, image.name, {"": file}, ""), self, {file: found}):
            raise UnfitScan(fault)

    def _network(self, weights: str | Path | None) -> nn.Module:
        path = Path(weights) if weights is not None else self.root / "models/model.pt"
        if not path.is_file():
            raise NoWeights("no weights yet: label scans, press Train" if weights is None else f"{path} does not exist")
        path, sign = path.resolve(), _signature(path)
        known = self._networks.get(path)
        if known is None or known[0] != sign:
            if len(self._networks) >= 4:  # the networks of what served before
                self._networks.clear()
            self._networks[path] = known = (sign, self._load(path))
        return known[1]

    def _load(self, path: Path) -> nn.Module:
        network = self.new_network()
        try:
            load(network, path)
        except WeightsError as error:
            raise WrongWeights(f"nothing was loaded: {error}") from error
        return network.to(self.device).eval()


def _import_scripts(folder: Path) -> ModuleType:
    """``scripts/`` of a bundle as a package whose name is its place."""
    name = f"bundle_scripts_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder.resolve())]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def _renamed(config: Any, package: str) -> Any:
    """The config with ``scripts.`` in every text replaced by the name of the package."""
    if isinstance(config, Mapping):
        return {key: _renamed(value, package) for key, value in config.items()}
    if isinstance(config, list):
        return [_renamed(value, package) for value in config]
    return re.sub(r"\bscripts\.", f"{package}.", config) if isinstance(config, str) else config


def _signature(path: Path) -> tuple[int, ...]:
    """Changes with the file's content, also where two files were written in one moment."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
