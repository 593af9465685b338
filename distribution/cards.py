"""What is known of a pretrained bundle: ``distribution/pretrained/NAME/card.yaml``, read and judged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from custom.errors import UserError, nearest

from .packing import digest

ROOT = Path(__file__).resolve().parents[1]
PRETRAINED = Path(__file__).resolve().parent / "pretrained"
METHODS = tuple(sorted(path.parent.parent.name for path in ROOT.glob("bundles/*/configs/train.yaml")))
TASKS = tuple(sorted(path.stem for path in ROOT.glob("custom/tasks/*.yaml")))
TASK = "task.yaml"  # beside a card: the task of a study

MAX_FILE = 25 * 10**6  # bytes of one file of the repository; larger ones belong into large_files.yml
MAX_TOTAL = 40 * 10**6  # bytes of all weights of the repository

# The keys of a card and of its parts, with their types. `str` is a text that is not empty.
_CARD: dict[str, type | tuple[type, ...]] = {
    "name": str, "version": str, "method": str, "task": str, "overrides": dict, "models": str, "weights": dict,
    "recommended": bool, "training": dict, "data": dict, "figures": dict, "intended_use": str, "not_tested_on": str,
}  # fmt: skip
_PARTS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "training": {"commands": list, "commit": str, "seed": int, "date": str, "machine": str, "minutes": (int, float)},
    "data": {"name": str, "source": str, "licence": str, "attribution": str, "labelled": int, "unlabelled": int,
             "validation": int, "test": int, "split": str},
    "figures": {"validation": dict, "test": dict},
}  # fmt: skip


class CardError(UserError, ValueError):
    """All faults of a card in one text; weights that are not those of the card."""


@dataclass(frozen=True)
class Card:
    """A ``card.yaml``; see :func:`read`.

    Attributes:
        path: the file.
        name: of the bundle, ``TASK_METHOD``; its folder's name.
        version: ``1.2.3``.
        method: a folder of ``bundles/``.
        task: a file of ``custom/tasks/`` without its suffix; where a ``task.yaml`` lies beside the card, the name of that.
        overrides: what the training was given beside the task, ids and values.
        models: the folder of the weights.
        weights: SHA-256 of each file of weights; ``model.pt`` is the network that serves.
        recommended: whether it serves by default, of all bundles of its task.
        training: commands, commit, seed, date, machine, minutes.
        data: name, source, licence, attribution, numbers of scans, split.
        figures: of ``validation`` and ``test``: ``dice`` and ``hd95``, each ``mean``, ``low``, ``high``, and more.
        intended_use: a sentence.
        not_tested_on: a sentence.
    """

    path: Path
    name: str
    version: str
    method: str
    task: str
    overrides: dict[str, Any]
    models: Path
    weights: dict[str, str]
    recommended: bool
    training: dict[str, Any]
    data: dict[str, Any]
    figures: dict[str, Any]
    intended_use: str
    not_tested_on: str

    @property
    def release(self) -> str:
        """``NAME_vVERSION``, as the zoo names its archives."""
        return f"{self.name}_v{self.version}"

    @property
    def task_file(self) -> Path:
        own = self.path.with_name(TASK)
        return own if own.is_file() else ROOT / f"custom/tasks/{self.task}.yaml"

    @property
    def files(self) -> list[Path]:
        return [self.models / name for name in self.weights]

    def dice(self, part: str) -> float | None:
        """Mean Dice in ``validation`` or ``test``; None where it was not measured."""
        mean = (self.figures[part].get("dice") or {}).get("mean")
        return float(mean) if isinstance(mean, (int, float)) else None


def cards(folder: Path = PRETRAINED) -> list[Card]:
    """All cards below ``folder``, by name.

    Raises:
        CardError: a card is wrong.
    """
    return [read(path) for path in sorted(folder.glob("*/card.yaml"))]


def card(name: str, folder: Path = PRETRAINED) -> Card:
    """One card.

    Raises:
        CardError: there is none of that name; it is wrong.
    """
    path = folder / name / "card.yaml"
    known = sorted(p.parent.name for p in folder.glob("*/card.yaml"))
    if name not in known:
        raise CardError(f"there is no pretrained bundle {name!r}{nearest(name, known)}; there are {known}")
    return read(path)


def recommended(task: str, folder: Path = PRETRAINED) -> Card:
    """The bundle that serves by default for a task.

    Raises:
        CardError: no card of that task says so, or more than one.
    """
    found = [c for c in cards(folder) if c.task == task and c.recommended]
    if len(found) != 1:
        names = [c.name for c in found] or "none"
        raise CardError(f"{task}: one pretrained bundle must be recommended, found {names}. "
                        f"Choose one: python -m distribution.adopt --recommend {task}")  # fmt: skip
    return found[0]


def read(path: Path) -> Card:
    """A card, judged: every key, its type, the method, the task, the form of version and hashes.

    Raises:
        CardError: all faults of the card in one text.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CardError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CardError(f"{path}: expected keys and values, found {type(content).__name__}")
    for part in ("training", "data"):  # YAML reads 2026-11-23 as a date
        if isinstance(content.get(part), dict) and "date" in content[part]:
            content[part]["date"] = str(content[part]["date"])
    faults = list(_faults(content, path.parent))
    if faults:
        raise CardError(f"{path}:\n  " + "\n  ".join(faults))
    models = content["models"]
    folder = ROOT / models if models.startswith("bundles/") else path.parent / models
    return Card(path=path, **{**content, "models": folder.resolve()})


def _faults(content: Mapping[str, Any], folder: Path) -> Iterator[str]:
    yield from _of_type(content, _CARD, "")
    yield from (f"{key}: unknown{nearest(key, _CARD)}" for key in content if key not in _CARD)
    for part, keys in _PARTS.items():
        if isinstance(content.get(part), dict):
            yield from _of_type(content[part], keys, f"{part}: ")
    name, method, task = content.get("name"), content.get("method"), content.get("task")
    if isinstance(name, str) and name != folder.name:
        yield f"name {name!r} is not that of its folder, {folder.name!r}"
    if isinstance(method, str) and method not in METHODS:
        yield f"method {method!r}{nearest(method, METHODS)}: expected one of {list(METHODS)}"
    if isinstance(task, str) and task not in TASKS and not (folder / TASK).is_file():
        yield f"task {task!r}{nearest(task, TASKS)}: expected one of {list(TASKS)}"
    if not re.fullmatch(r"\d+\.\d+\.\d+", str(content.get("version"))):
        yield f"version {content.get('version')!r}: expected three numbers as in 0.1.0"
    training = content.get("training")
    if isinstance(training, dict) and not re.fullmatch(r"[0-9a-f]{40}", str(training.get("commit"))):
        yield f"training: commit {training.get('commit')!r}: expected 40 hexadecimal digits"
    weights = content.get("weights")
    if isinstance(weights, dict):
        if "model.pt" not in weights:
            yield "weights: there is no model.pt"
        for file, digest in weights.items():
            if not re.fullmatch(r"\w+\.pt", str(file)):
                yield f"weights: {file!r} is not the name of a file of weights"
            if not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
                yield f"weights: {file}: {digest!r} is not a SHA-256"


def _of_type(content: Mapping[str, Any], keys: Mapping[str, Any], where: str) -> Iterator[str]:
    for key, kind in keys.items():
        if key not in content:
            yield f"{where}{key} is missing"
        elif not isinstance(content[key], kind) or (isinstance(content[key], bool) and kind is not bool):
            wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            yield f"{where}{key}: expected {wanted}, found {content[key]!r}"
        elif kind is str and not content[key].strip():
            yield f"{where}{key} is empty"


def verify(card: Card) -> None:
    """Compare the files of weights with the card.

    Raises:
        CardError: a file is missing, too large for the repository, or has another SHA-256.
    """
    for path in card.files:
        if not path.is_file():
            raise CardError(f"{card.name}: {path} is missing. Nothing was built.")
        if (size := path.stat().st_size) > MAX_FILE and not card.path.with_name(
            TASK
        ).is_file():  # a study's is nobody's repository
            raise CardError(
                f"{card.name}: {path.name} has {size / 1e6:.1f} MB, a file of the repository at most "
                f"{MAX_FILE / 1e6:.0f} MB. Host it elsewhere and name it, with its sha256, in large_files.yml. "
                "Nothing was built."
            )
        found, expected = digest(path), card.weights[path.name]
        if found != expected:
            raise CardError(f"{card.name}: {path.name}: sha256 is {found}, expected {expected}. Nothing was built.")
