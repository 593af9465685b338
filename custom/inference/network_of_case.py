"""Inference with networks that read one modality each: every case gets the weights that read its image."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from ..cohort.names import stem
from ..cohort.words import first_names
from ..networks.one_channel import channel_of
from .weight_files import WeightsError, load_weights

logger = logging.getLogger(__name__)

FINAL = "_final"


class NetworkOfCase:
    """Loads, before a case, the weights that read its modality into the one network of the evaluator.

    Which file reads what stands under ``networks`` in the metadata.json of the bundle around ``model_file``. The files
    are those beside it that are of the same moment: best in validation, or final.

    Args:
        network: the evaluator's.
        model_file: the weights that serve.
        channels: names in their order.
        data: the cases as :func:`~..cohort.folders.paths_alone` gives them. Batches carry their ``modality``.

    Raises:
        WeightsError: at the start: the bundle does not say what ``model_file`` reads, or nothing reads the modality of
            a case; later: a batch with cases of two modalities, or weights that read another one than the bundle says.
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
            self._loaded, file = modalities[0], self._files[modalities[0]]
            load_weights(self.network, file)
            if (channel := channel_of(self.network)) != self.channels.index(self._loaded):
                raise WeightsError(
                    f"{file} reads channel {channel}, the bundle's metadata.json says {self._loaded}, channel "
                    f"{self.channels.index(self._loaded)}. Put the file there that the training wrote"
                )


def weights_by_modality(model_file: Path, channels: Sequence[str]) -> dict[str, Path]:
    """Return the file of weights of each modality, by ``networks`` of the bundle's metadata.json; ``model_file`` first.

    Raises:
        WeightsError: ``networks`` does not name ``model_file``, or names none of ``channels`` for it.
    """
    metadata = model_file.resolve().parents[1] / "configs" / "metadata.json"
    networks = json.loads(metadata.read_text(encoding="utf-8")).get("networks", {}) if metadata.is_file() else {}
    final = FINAL if model_file.stem.endswith(FINAL) else ""
    files = {
        about["modality"]: model_file.with_name(f"{Path(about['file']).stem}{final}.pt")
        for about in networks.values()
        if about["modality"] in channels
    }
    if model_file not in files.values():
        raise WeightsError(
            f"{model_file}: which of {', '.join(channels)} does it read? Expected an entry with its name under `networks` "
            f"in {metadata}. Give the model.pt of a finished bundle of this method on these channels: --model_file"
        )
    there = {modality: file for modality, file in files.items() if file.is_file()}
    return dict(sorted(there.items(), key=lambda item: item[1] != model_file))
