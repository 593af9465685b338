"""What a text says, by the parts that matter: the case, what was found or expected, what to do. Words between are free."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TypeVar

import pytest

E = TypeVar("E", bound=BaseException)


def says(text: str, *parts: str) -> None:
    """All ``parts`` are in ``text``, in this order, as whole words: 1 scan is not in 11 scans, nor 5 mm in 1.5 mm.

    Raises:
        AssertionError: with the text, cut where the first part that is missing was looked for.
    """
    __tracebackhide__ = True
    assert parts, "no part is asked for"
    assert all(parts), f"an empty part is in every text: {parts}"
    end = 0
    for part in parts:
        found = _whole(part).search(text, end)
        if found is None:
            where = " after the parts before it" if _whole(part).search(text) else ""
            raise AssertionError(f"{part!r} is not said{where}: {text[:end]!r} | {text[end:]!r}")
        end = found.end()


@contextlib.contextmanager
def raises(error: type[E], *parts: str) -> Iterator[pytest.ExceptionInfo[E]]:
    """The block raises ``error``, and its text says ``parts``."""
    __tracebackhide__ = True
    with pytest.raises(error) as caught:
        yield caught
    says(str(caught.value), *parts)


def _whole(part: str) -> re.Pattern[str]:
    """``part``, where no word and no number goes on at its ends."""
    start = r"(?<!\w)(?<!\d\.)" if part[0].isalnum() else ""
    stop = r"(?!\w)(?!\.\d)" if part[-1].isalnum() else ""
    return re.compile(start + re.escape(part) + stop)
