"""A method's fragment: what its bundle has of its own, beside the base and the default task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml


class FragmentError(ValueError):
    """A fragment that lacks a key, or has one that nothing reads."""


@dataclass(frozen=True)
class Fragment:
    """``methods/NAME.yaml``. Texts are YAML, put into the configs as they are written, comments included; in them
    ``{{ unet(...) }}`` and ``{{ dice_ce }}`` stand for the base's network and loss (``templates/parts.jinja``)."""

    name: str
    header: str
    """What the method is, in two or three sentences: the first lines of train.yaml."""
    task: str
    """The default task, a file of ``custom/tasks``: a form of the phantom."""
    settings: str
    """``learning_rate``, ``weights`` and the method's own settings, a comment beside each."""
    method: str
    """The component ``train::method``."""
    metadata: Mapping[str, Any]
    """``task``, ``description`` and ``references``; ``modality`` and ``image_classes`` where they are not the base's."""
    network: str = ""
    """The component ``network_def``; empty: the base's U-Net."""
    optimizer: str = ""
    """The optimiser, without the parameters and the rate; empty: SGD with Nesterov momentum."""
    lr_schedule: str = ""
    """The learning-rate schedule; empty: polynomial decay by step."""
    example: str = "acdc"
    """The task file that the header's command names."""
    unlabelled: bool = True
    """Whether the method draws unlabelled scans."""
    strong: bool = False
    """Whether the method can look at a strong, mixed view of the unlabelled scans."""
    published: str = ""
    """What ``configs/published.yaml`` overrides: the method as its paper has it, where the bundle's own form differs."""
    modalities_alone: bool = False
    """Whether ``network`` and ``train::method::second`` read one modality each, instead of one network all channels."""
    validation_interval: str = "'@val_interval'"
    """Epochs between two validations."""
    comments: Mapping[str, str] = field(default_factory=dict)
    """Comments of a task's settings, where they are not the base's."""


def read(path: Path) -> Fragment:
    """Read a fragment; its name is the file's.

    Raises:
        FragmentError: a key is missing, or unknown.
    """
    content = {"name": path.stem, **yaml.safe_load(path.read_text(encoding="utf-8"))}
    known = [f.name for f in fields(Fragment)]
    if unknown := [key for key in content if key not in known]:
        raise FragmentError(f"{path.name}: unknown {', '.join(unknown)}; a fragment has {', '.join(known[1:])}")
    try:
        return Fragment(**content)
    except TypeError as error:  # names the arguments that are missing
        raise FragmentError(f"{path.name}: {str(error).partition('() ')[2]}") from error
