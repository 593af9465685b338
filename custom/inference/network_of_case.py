"""Inference with networks that read one modality each: every case gets the weights that read its image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from ..cohort.names import stem
from ..cohort.words import first_names
from .weight_files import WeightsError, load_weights

logger = logging.getLogger(__name__)

FINAL = "_final"


class NetworkOfCase:
    """Loads, before a case, the weights that read its modality into the one network of the evaluator.

    Weights say themselves which channel they read, by their ``channel``. They are looked for in ``model_file`` and in
    the files beside it that are of the same moment: best in validation, or final.

    Args:
        network: the evaluator's.
        model_file: the weights that serve.
        channels: names in their order.
        data: the cases as :func:`~.folders.files` gives them. Batches carry their ``modality``.

    Raises:
        WeightsError: at the start: ``model_file`` does not say what it reads, or nothing reads the modality of a case;
            later: a batch with cases of two modalities.
    """

    def __init__(
        self, network: nn.Module, model_file: str | Path, channels: Sequence[str], data: Sequence[Mapping[str, Any]]
    ) -> None:
        self.network, self.model_file, self.channels, self.data = network, Path(model_file), list(channels), data
        self._files: dict[str, Path] = {}
        self._loaded = ""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._load)

    def _start(self) -> None:
        self._files, self._loaded = weights_by_modality(self.model_file, self.channels), ""
        cases: dict[str, list[str]] = {}
        for entry in self.data:
            cases.setdefault(entry["modality"], []).append(stem(entry["image"]))
        for modality, names in cases.items():
            if modality not in self._files:
                raise WeightsError(self._nothing_reads(modality, names))
        for modality, names in cases.items():
            logger.info("%s (%s): %d of %d cases (%s)", self._files[modality].name, modality, len(names), len(self.data),
                        first_names(names))  # fmt: skip

    def _nothing_reads(self, modality: str, names: Sequence[str]) -> str:
        known = ", ".join(f"{path.name} ({name})" for name, path in self._files.items())
        return (
            f"{len(names)} of {len(self.data)} cases ({first_names(names)}) are {modality}, and no weights in "
            f"{self.model_file.parent} read {modality}; found {known}. Put the file for {modality} beside "
            f"{self.model_file.name}, or give only images of another modality: --modality {next(iter(self._files))}"
        )

    def _load(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        modalities = sorted(set(batch["modality"]))
        if len(modalities) != 1:
            raise WeightsError(f"a batch holds cases of {' and '.join(modalities)}: set dataloader::batch_size to 1")
        if modalities[0] != self._loaded:
            self._loaded = modalities[0]
            load_weights(self.network, self._files[self._loaded])


def weights_by_modality(model_file: Path, channels: Sequence[str]) -> dict[str, Path]:
    """The file of weights of each modality; that of ``model_file`` first.

    Raises:
        WeightsError: ``model_file`` does not say which of ``channels`` it reads.
    """
    final = model_file.stem.endswith(FINAL)
    beside = [path for path in sorted(model_file.parent.glob("*.pt"))
              if path != model_file and path.stem.endswith(FINAL) == final]  # fmt: skip
    found: dict[str, Path] = {}
    for path in (model_file, *beside):
        weights = torch.load(path, map_location="cpu", weights_only=True)
        channel = weights.get("channel") if isinstance(weights, Mapping) else None
        if channel is not None and int(channel) < len(channels):
            found.setdefault(channels[int(channel)], path)
        elif path == model_file:
            raise WeightsError(
                f"{path} does not say which of {', '.join(channels)} it reads (no `channel` in it that fits). Give the "
                "model.pt of a run of this bundle on these channels: --model_file"
            )
    return found
