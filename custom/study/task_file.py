"""A task file as a person would write it: each number with the reason beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..cohort.errors import CohortError
from ..files import write_text
from .rules import Number

WIDTH = 120
COLUMN = 27  # where reasons begin


def write(path: Path, numbers: Mapping[str, Number], title: str = "") -> Path:
    """Write numbers as a task file that every bundle's ``configs/train.yaml`` takes after it.

    ``python -m monai.bundle run training --config_file "['configs/train.yaml','/absolute/task.yaml']"``

    Args:
        path: of the file; its folder exists.
        numbers: by id of the config, in the order in which they are written.
        title: what the file is of, in the first lines.

    Raises:
        CohortError: a comma or a quote in the path: MONAI takes a list of files apart at them.
        FileError: it cannot be written.
    """
    path = Path(path).resolve()
    if any(sign in str(path) for sign in ",'\""):
        raise CohortError(
            f"{path} has a comma or a quote, at which MONAI takes a list of config files apart. Rename the folder"
        )
    write_text(path, text(numbers, title))
    return path


def text(numbers: Mapping[str, Number], title: str = "") -> str:
    """The content of a task file, YAML."""
    lines = _comment(title)
    for name, number in numbers.items():
        lines += _lines(name, number)
    return "\n".join(lines) + "\n"


def _lines(name: str, number: Number) -> list[str]:
    first, *rest = _value(name, number.value)
    reason = " ".join(number.reason.split())
    beside = f"{first:{COLUMN - 1}} # {reason}"
    if not reason:
        return [first, *rest]
    return [beside, *rest] if len(beside) <= WIDTH else [*_comment(reason), first, *rest]


def _value(name: str, value: Any) -> list[str]:
    """A line; of a list of components a line each, which may be as long as they are."""
    if isinstance(value, Mapping) and "transforms" in value:
        others = [f"  {key}: {_flow(item)}" for key, item in value.items() if key != "transforms"]
        return [f"{name}:", *others, "  transforms:", *[f"  - {_flow(item)}" for item in value["transforms"]]]
    return [f"{name}: {_flow(value)}"]


def _flow(value: Any) -> str:
    """YAML in one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return dumped.removesuffix("...\n").strip()


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2)]
