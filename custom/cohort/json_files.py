"""JSON and other texts that users write, read as data."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from ..placeholders import placeholder
from .errors import CohortError


def raw_text(file: Path) -> str:
    """A file's text in UTF-8, with or without a byte order mark, which spreadsheets and editors write.

    Raises:
        CohortError: it is missing or no such text.
    """
    if found := placeholder(file):
        raise CohortError(f"{file} {found}")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CohortError(f"{file} is not text in UTF-8 ({error}). Save it as UTF-8 (in Excel: CSV UTF-8)") from error
    except OSError as error:
        raise CohortError(f"{file} cannot be read: {error.strerror}") from error


def text_of(file: Path) -> str:
    """:func:`raw_text` in which one letter has one code; not for texts with paths, whose letters are as the disk has them."""
    return unicodedata.normalize("NFC", raw_text(file))


def json_object(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        CohortError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(text_of(file), object_pairs_hook=once)
    except ValueError as error:
        raise CohortError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CohortError(f"{file}: expected an object, found {type(content).__name__}")
    return content


def read_split(file: Path) -> dict[str, list[str]]:
    """The lists of a split file, which stand below ``split`` or by themselves.

    Raises:
        CohortError: it cannot be read, or holds no JSON object.
    """
    content = json_object(file)
    content = content["split"] if isinstance(content.get("split"), dict) else content
    return {key: value for key, value in content.items() if isinstance(value, list)}


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ; for ``json.loads``, which would keep the last of two and lose the other.

    Raises:
        ValueError: a key is there twice.
    """
    twice = sorted(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    if twice:
        raise ValueError(f"the key {', '.join(map(repr, twice))} is there twice")
    return dict(pairs)
