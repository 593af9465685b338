"""Pages from Jinja2 templates: one style (``templates/base.html``), one palette, names escaped by the template engine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..dice import MEAN_DICE
from . import palette
from .tables import counted, interval, number

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, folder: Path = TEMPLATES, **content: Any) -> str:
    """Return a page that fetches nothing.

    Args:
        template: a file of ``folder`` that extends ``base.html``.
        folder: where it lies; ``base.html`` and ``blocks.html`` are always found.
        content: what the template names. A string is data and gets escaped, unless it is ``Markup``.

    Raises:
        jinja2.UndefinedError: the template names what ``content`` lacks.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"counted": counted, "quoted": lambda value: shlex.quote(str(value))}  # for a command line
    environment.globals |= {"palette": palette, "number": number, "interval": interval, "mean_dice": MEAN_DICE}
    return environment.get_template(template).render(contents=[], **content)
