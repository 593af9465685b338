"""What a run leaves on disk: the lock, checkpoints, metrics.csv, and the finished bundle."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import platform
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import monai
import torch
from torch import nn

from .. import distributed
from ..cohort.intensities import FILE, IntensityRecord
from ..files import sweep, under, write_atomically, write_text
from . import checkpoint
from .bundle import write_bundle
from .checkpoint import CheckpointError
from .config import RunConfig
from .folder import RunFolder
from .tracker import Tracker

logger = logging.getLogger(__name__)

# What a later run moves aside when it starts in the same folder without `resume`.
_RUN_FILES = (
    "last_*.pt", "metrics.csv", "learning_curves.png", "validation.png", "tensorboard", "mlflow.json", "bundle",
    "evaluation",
)  # fmt: skip
_TRAINED = (
    "metrics.csv",
    "evaluation",
    "bundle/run.json",
    "bundle/models/*.pt",
)  # what only a training that ran leaves
FORMATS = {"bf16": "bfloat16", "fp16": "float16", "off": "float32"}


class Output:
    """A run's folder, written by rank 0: ``last_NNNN.pt``, ``metrics.csv``, ``bundle/``, and what its trackers write.

    Nothing is touched before :meth:`open`. A new run in a folder that holds an earlier one moves that one to
    ``earlier/NNN``, and so does a resume that finds no checkpoint to go on from; nothing is overwritten in place.

    Args:
        folder: the run's ``output_dir``, absolute or below ``root``.
        config: the run's settings; None in tests of the trainer alone: no ``bundle/`` is described then.
        root: the bundle's root.

    Attributes:
        trackers: follow the run, in this order; empty on all ranks except 0.
    """

    def __init__(self, folder: str | Path, config: RunConfig | None = None, root: str | Path = ".") -> None:
        self.folder = under(root, folder)
        self.config = config
        self.models = self.folder / "bundle" / "models"
        self._lock = RunFolder(self.folder)
        self.rows: list[dict[str, float]] = []
        self._writes = distributed.rank() == 0
        self._data: dict[str, str] = {}
        self._amp = "off"
        self.trackers: list[Tracker] = []

    def open(self, resume: bool = False) -> None:
        """Take the folder for this process; see :class:`~.folder.RunFolder` for what is raised."""
        if self._writes:
            self._lock.open()
            for folder in (self.folder, self.models, self.models.parent / "configs"):
                sweep(folder)
            if not resume:
                self._set_aside(_RUN_FILES, "holds an earlier run", "--resume true goes on with it instead")
            elif not checkpoint.exist(self.folder) and any(self._found(_TRAINED)):
                why = "--resume true goes on from one, so this run begins anew"
                self._set_aside(_RUN_FILES, "holds an earlier run without a checkpoint", why)
        distributed.barrier()

    def goes_on(self) -> None:
        """A resume was accepted and has epochs left: an evaluation, of other weights than it will have, goes aside."""
        if self._writes:
            self._set_aside(("evaluation",), "was evaluated before its end", "evaluate again at the end of this run")

    def begin(self) -> None:
        """The run is on its way: a new one, or one whose resume was accepted. A refused one touches nothing."""
        if self._writes:
            if self.config is not None:
                write_bundle(self.folder / "bundle", self.config)
                logger.info("All settings of this run: %s", self.folder / "bundle/configs/train.yaml")
                if line := self.config.rounding():
                    logger.info("%s", line)
            self.models.mkdir(parents=True, exist_ok=True)
        for tracker in self.trackers:
            tracker.begin(self.rows)

    def keep_intensities(self, record: IntensityRecord) -> None:
        """What the networks see in training goes beside their weights, for whoever uses them."""
        if self._writes:
            write_text(self.models / FILE, json.dumps(record, indent=2) + "\n")

    def close(self) -> None:
        with contextlib.closing(self._lock):
            for tracker in self.trackers:
                tracker.close()

    def _found(self, patterns: Sequence[str]) -> list[Path]:
        return [path for pattern in patterns for path in sorted(self.folder.glob(pattern))]

    def _set_aside(self, patterns: Sequence[str], what: str, instead: str) -> None:
        found = self._found(patterns)
        if not found:
            return
        start = str(self.config.resolved("initial_weights") or "") if self.config is not None else ""
        weights = under(self.config.bundle_root, start) if start and self.config is not None else None
        if weights is not None and any(weights.is_relative_to(path) for path in found):
            raise CheckpointError(
                f"initial_weights {start} lie in the output_dir of this run, whose earlier files would be moved aside. "
                "Choose another --output_dir."
            )
        number = 1 + max((int(p.name) for p in (self.folder / "earlier").glob("[0-9]*")), default=0)
        aside = self.folder / "earlier" / f"{number:03d}"
        aside.mkdir(parents=True)
        for path in found:
            shutil.move(str(path), str(aside / path.name))
        logger.info("%s %s: moved to %s (%s).", self.folder, what, aside, instead)

    # checkpoints

    def checkpoint(self, state: Mapping[str, Any], epoch: int, data: Mapping[str, str], amp: str = "off") -> None:
        """Write the state after an epoch; ``amp`` is the number format of the run: bf16, fp16 or off, never auto."""
        self._data, self._amp = dict(data), amp
        if not self._writes:
            return
        described = {
            "config": self.config.config if self.config is not None else {},
            "data": dict(data),
            "processes": distributed.world_size(),
            "amp": amp,
        }
        checkpoint.save({"state": dict(state), **described}, self.folder, epoch)
        for tracker in self.trackers:
            tracker.update(self.rows)

    def newest_checkpoint(self, data: Mapping[str, str], amp: str = "off") -> tuple[dict[str, Any], Path] | None:
        """The state to go on from; ``data`` and ``amp`` as :meth:`checkpoint` gets them.

        Raises:
            CheckpointError: no checkpoint can be read; it was written with another config, in another number format or
                on other data.
        """
        found = checkpoint.newest(self.folder)
        if found is None:
            return None
        saved, path = found
        self._data, self._amp = dict(data), amp
        if not {"state", "config", "data", "processes"} <= set(saved):
            raise CheckpointError(f"{path} is not a checkpoint of this trainer: it has the entries {sorted(saved)}")
        faults = [f"data: the {part} scans are not those it was trained on"
                  for part in sorted({*saved["data"], *data}) if saved["data"].get(part) != data.get(part)]  # fmt: skip
        if saved["processes"] != distributed.world_size():
            then, now = saved["processes"], distributed.world_size()
            faults.append(f"number of processes: written by {then}, this run has {now}: give torchrun {then} again")
        written = saved.get("amp")  # None of older checkpoints
        if written not in (None, amp):  # `auto` is another format on another machine
            faults.append(
                f"computed in {FORMATS[written]}, this run would go on in {FORMATS[amp]}: give --amp {written}"
            )
        if self.config is not None:
            free = self.config.FREE if written is None else (*self.config.FREE, "amp")
            faults += checkpoint.differences(saved["config"], self.config.config, free)
        if faults:
            raise CheckpointError(
                f"Cannot resume from {path}:\n  " + "\n  ".join(faults) + "\nStart with the settings and scans it was "
                "written with, or begin a new run: --resume false, best with another --output_dir."
            )
        self.rows = [row for row in self._read_rows() if row["epoch"] <= saved["state"]["epoch"]]
        return saved["state"], path

    # metrics.csv

    def log(self, row: Mapping[str, float]) -> None:
        """One row an epoch. The file is written anew each time: columns may come late (a term that starts late)."""
        self.rows.append(dict(row))
        if self._writes:
            columns = list(dict.fromkeys(name for r in self.rows for name in r))
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_text(self.folder / "metrics.csv", text.getvalue())

    def _read_rows(self) -> list[dict[str, float]]:
        path = self.folder / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [{k: _number(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]

    # the networks that serve

    def serve(self, networks: Mapping[str, nn.Module], suffix: str = "") -> None:
        """The first network as ``models/model.pt``, the others by name; bare state dicts."""
        if not self._writes:
            return
        for index, (name, network) in enumerate(networks.items()):
            stem = "model" if index == 0 else name
            state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
            write_atomically(self.models / f"{stem}{suffix}.pt", partial(torch.save, state))

    def finish(
        self, networks: Mapping[str, nn.Module], best: Mapping[str, float], unlabelled_terms: Sequence[str] = ()
    ) -> None:
        """Write the final weights beside the best ones and ``run.json``; then the trackers hear of the end."""
        if not self._writes:
            return
        self.serve(networks, suffix="_final")
        about = {
            "networks": {("model" if i == 0 else name): name for i, name in enumerate(networks)},
            "best in validation": dict(best) if best["epoch"] else None,
            "epochs": len(self.rows),
            "amp": self._amp,
            "terms that read unlabelled scans": list(unlabelled_terms),
            "initial_weights": str(self.config.resolved("initial_weights") or "") if self.config is not None else "",
            "sha256 of the scans, names and voxels": self._data,
            "versions": {
                "torch": str(torch.__version__),
                "monai": monai.__version__,
                "python": platform.python_version(),
            },
        }
        write_text(self.models.parent / "run.json", json.dumps(about, indent=2) + "\n")
        for tracker in self.trackers:
            tracker.finish(self.rows)
        logger.info("Finished: %s (weights), %s", self.models.parent, self.folder / "metrics.csv")


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() else value
