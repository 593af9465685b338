"""Train on what annotators have labelled so far; the new weights serve only if they are no worse."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask

from annotate.bundle import FINAL, Served
from annotate.rounds import Round, RoundError, of_studies, plan
from annotate.versions import Versions
from custom.errors import UserError, show_plainly
from custom.files import write_text
from custom.run.folder import RunFolder

STEPS = 200  # optimiser steps of a training, unless max_epochs says another length

logger = logging.getLogger(__name__)


class BundleTrain(BundleTrainTask):
    """One round: split the datastore, train the bundle into a folder of its own, compare, put into service or not.

    The labelled scans are the bundle's labelled stream, the images without a label its unlabelled one, see
    :func:`~annotate.rounds.plan`. Until the end nothing that serves is touched: a training may fail, be cancelled or be
    killed at any moment. A rejected candidate stays in ``training/`` until the next round.

    Args:
        served: the bundle in the work folder.
    """

    def __init__(self, served: Served) -> None:
        self.served, self.versions = served, Versions(served.root)
        self.folder = served.root / "training"
        self.candidate = self.folder / "candidate"
        self._round = Round([], [], [])
        self._weights: Path | None = None
        super().__init__(str(served.root), conf={})

    def config(self) -> dict[str, Any]:
        """What an annotator may choose: the length, and whether to start from the weights that serve."""
        epochs = -(-STEPS // int(self.bundle_config.get("epoch_steps")))
        return {"max_epochs": epochs, "pretrained": True}

    def stats(self) -> dict[str, Any]:
        """How far the training is, and how the last one ended; names as 3D Slicer shows them."""
        last = _content(self.folder / "last.json")
        if last.get("status") == "RUNNING" and not _is_alive(last["process"]):
            now = self.versions.served()
            same = "the weights that serve are as they were" if now == last.get("serves") else f"version {now} serves"
            last |= {"status": "STOPPED", "message": f"cancelled or killed; {same}"}
        serves = self.versions.served()
        stats = {
            "best_metric": self._measured(serves, last) or 0.0,
            "served": serves,
            "weights": self.served.version(),
            "versions": self.versions.names(),
            "last": {key: value for key, value in last.items() if key != "process"},
        }
        if last.get("status") == "RUNNING":
            return stats | {"epoch": _epochs(self.candidate / "metrics.csv"), "total_epochs": last["max_epochs"]}
        return stats | {"total_time": last.get("seconds", 0)}

    def _measured(self, serves: str | None, last: Mapping[str, Any]) -> float | None:
        """Dice of what serves, as the last round that scored it found."""
        if serves is None:
            return None
        if last.get("version") == serves:
            return last["dice"]["candidate" if last["replaced"] else "served"]
        return (self.versions.record(serves).get("dice") or {}).get("candidate")

    # ---- a round ---------------------------------------------------------------------------------------------------

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, compare, decide.

        Args:
            request: ``max_epochs`` and ``pretrained``, see :meth:`config`; nothing else of it is used.

        Returns:
            ``message``, ``replaced``, ``version`` that serves, ``dice`` of candidate and served weights, and how many
            scans there were in each stream.

        Raises:
            UserError: see :func:`~annotate.rounds.plan`; the bundle's own check of the scans, in words of the app; another
                process trains here.
        """
        show_plainly()
        alone = "local_rank" in request  # in a process of its own, that the server started
        if alone:
            _end_with_parent()
        with RunFolder(self.folder):  # of another process; the server itself starts one at a time
            result = self._recorded(request, datastore)
        if alone:  # the end of train_status' `details`; a log's line would not be read as JSON
            print(json.dumps(result), flush=True)
        return result

    def _recorded(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Do a round; write what comes of it to ``last.json``."""
        asked = {key: request.get(key, value) for key, value in self.config().items()}
        start = time.monotonic()
        self._note(status="RUNNING", process=_this_process(), serves=self.versions.served(), **asked)
        try:
            result = self._train(asked, datastore)
        except BaseException as error:
            cause = next((e for e in _chain(error) if _is_users(e)), error)
            text = of_studies(str(cause))
            self._note(status="ERROR", message=text, seconds=round(time.monotonic() - start, 1))
            if text != str(cause):
                raise RoundError(text) from error
            raise
        self._note(status="DONE", **result, seconds=round(time.monotonic() - start, 1))
        logger.info("%s", result["message"])
        return result

    def _note(self, **known: Any) -> None:
        write_text(self.folder / "last.json", json.dumps(known, indent=2) + "\n")

    def _train(self, asked: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        self.versions.sweep()
        shutil.rmtree(self.candidate, ignore_errors=True)
        serves = self.served.networks()
        images, labelled = datastore.list_images(), datastore.get_labeled_images()
        self._round = plan(images, labelled, self.versions.learnt(), bool(serves))
        logger.info("%s", _streams(self._round))
        self._weights = serves.get("model") if asked["pretrained"] else None
        self._parts = self._entries(datastore)
        write_text(self.folder / "list.json", json.dumps(self._parts, indent=2) + "\n")
        self.bundle_config = self._load_bundle_config(
            self.bundle_path, self.bundle_config_path
        )  # the last round's is edited
        super().__call__({"model": self.served.root.name, "multi_gpu": False, **asked}, datastore)
        return self._decide(serves.get("model"))

    def _entries(self, datastore: Datastore) -> dict[str, list[dict[str, str]]]:
        """The bundle's data list."""
        files = {Path(entry["image"]): entry["label"] for entry in datastore.datalist()}

        def entry(name: str, part: str) -> dict[str, str]:
            image = datastore.get_image_uri(name)
            return {"image": image, **({} if part == "unlabelled" else {"label": files[Path(image)]})}

        return {part: [entry(name, part) for name in names] for part, names in vars(self._round).items()}

    def _decide(self, before: Path | None) -> dict[str, Any]:
        """Put the candidate into service if it is no worse, or if there is nothing to compare it with."""
        models = (self.candidate / "bundle/models").glob("*.pt")
        networks = {path.stem: path for path in sorted(models) if not path.stem.endswith(FINAL)}
        cases = self._parts["validation"]
        dice = {
            "candidate": self.served.dice(cases, networks["model"]) if cases else None,
            "served": self.served.dice(cases, before) if cases and before else None,
        }
        alarms: dict[str, int] = {}
        if before and cases and all(value is not None and math.isnan(value) for value in dice.values()):
            weights = {
                "candidate": networks["model"],
                "served": before,
            }  # no structure to judge by: nothing must be found
            alarms = {who: self.served.false_alarms(cases, path) for who, path in weights.items()}
            better = alarms["candidate"] <= alarms["served"]
        else:
            better = dice["served"] is None or (dice["candidate"] is not None and dice["candidate"] >= dice["served"])
        dice = {who: None if value is None or math.isnan(value) else value for who, value in dice.items()}
        if better:
            known = {part: list(names) for part, names in vars(self._round).items()}
            version = self.versions.add(networks, **known, dice=dice, before=self.versions.served())
            self.versions.serve(version)
        counts = {part: len(names) for part, names in vars(self._round).items()}
        message = (
            f"{_verdict(better, dice, alarms, self.versions.served(), counts['validation'])} {_streams(self._round)}"
        )
        return {
            "message": message,
            "replaced": better,
            "version": self.versions.served(),
            "dice": dice,
            "scans": counts,
        }

    # ---- what MONAI Label's task asks on its way -------------------------------------------------------------------

    def _fetch_datalist(self, request: Any, datastore: Datastore) -> list[dict[str, str]]:
        return self._parts["labelled"]

    def _partition_datalist(self, datalist: list, request: Any, shuffle: bool = False) -> tuple[list, list]:
        return datalist, self._parts["validation"]

    def _load_checkpoint(self, model_pytorch: Any, pretrained: Any, train_handlers: Any) -> None:
        """The bundle's own handler loads ``initial_weights`` into the network that trains."""

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Add the list to the overrides, so that what the check has read is recorded beside it and not read again."""
        overrides |= {
            "data_list": str(self.folder / "list.json"),
            "output_dir": str(self.candidate),
            "initial_weights": str(self._weights or ""),
        }
        if "unlabelled_dataset" in self.bundle_config.get("train"):  # a supervised bundle has no such stream
            overrides["train#unlabelled_dataset#data"] = self._parts["unlabelled"]
        return overrides


def _verdict(
    better: bool, dice: Mapping[str, float | None], alarms: Mapping[str, int], version: str | None, scans: int
) -> str:
    mean = {who: "not measured" if value is None else f"{value:.3f}" for who, value in dice.items()}
    on = f"on {scans} validation scan{'s' if scans > 1 else ''}"
    if alarms:
        figures = f"false alarms {alarms['candidate']} against {alarms['served']} of the served ones, {on} without a structure"
    elif scans == 0:
        return f"The new weights serve, version {version}: there was nothing to compare them with, and no scan to judge by."
    elif better and dice["served"] is None:
        return f"The new weights serve, version {version}: mean Dice {mean['candidate']} {on}; there were none before."
    else:
        figures = f"mean Dice {mean['candidate']} against {mean['served']} of the served ones, {on}"
    if better:
        return f"The new weights serve, version {version}: {figures}."
    return f"The new weights are worse and do not serve, version {version} stays: {figures}."


def _streams(planned: Round) -> str:
    counts = (
        f"{len(planned.labelled)} labelled, {len(planned.unlabelled)} unlabelled, {len(planned.validation)} to judge by"
    )
    supervised = "" if planned.unlabelled else ". No unlabelled scan is left: training is supervised"
    return f"Scans: {counts}{supervised}."


def _end_with_parent() -> None:
    """A server that is killed must not leave a training behind that goes on by itself."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _this_process() -> list[float]:
    """Its number, and when it started: numbers come again."""
    return [os.getpid(), psutil.Process().create_time()]


def _is_alive(process: list[float]) -> bool:
    try:
        found = psutil.Process(int(process[0]))
        return found.create_time() == process[1] and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_users(error: BaseException) -> bool:
    """Return whether it is a fault that the user can mend: ours, or the bundle's, whose class is another of the same name."""
    return any(kind.__name__ == UserError.__name__ for kind in type(error).__mro__)


def _content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _epochs(path: Path) -> int:
    """Epochs that a run has done."""
    if not path.is_file():
        return 0
    with path.open(newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.DictReader(file))
