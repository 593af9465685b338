"""Numbers and names as they stand in reports."""

from __future__ import annotations

from collections.abc import Sequence

FIRST = 3  # names stand in a warning
SHOWN = 8  # values of a label that are written out


def plural(count: int, noun: str) -> str:
    """``1 scan``, ``2 scans``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def value_text(value: float) -> str:
    """A label's value without a needless fraction: ``3``, ``1.5``; a fraction is never rounded away."""
    text = f"{value:g}"
    return str(int(value)) if value % 1 == 0 else text if float(text) % 1 else repr(float(value))


def value_list(values: Sequence[float]) -> str:
    """``0, 1, 3``; of many the first and the last."""
    few = values if len(values) <= SHOWN else [*values[: SHOWN - 1], values[-1]]
    texts = list(map(value_text, few))
    return ", ".join(texts if few is values else [*texts[:-1], "...", texts[-1]])


def span(values: Sequence[int]) -> str:
    """``0..3``, or ``{0, 255}`` where there are gaps."""
    whole = len(values) > 1 and list(values) == list(range(values[0], values[0] + len(values)))
    return f"{values[0]}..{values[-1]}" if whole else f"{{{value_list(values)}}}"


def first_names(names: Sequence[str], most: int = FIRST) -> str:
    """The first names, and dots where there are more."""
    return "; ".join([*names[:most], *(["..."] if len(names) > most else [])])


def some(names: Sequence[str], count: int = 5) -> str:
    """The first few names, and how many there are in all, for texts."""
    more = f", ... ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(names[:count]) + more
