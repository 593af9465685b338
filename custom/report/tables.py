"""Tables of a page: columns that say how they are filled, and the figures in their cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ..evaluation.case_report import FAULTS, fault_texts

NOTHING = "\N{EN DASH}"  # in the place of what was not measured
_LONG = 22  # characters of a name that may stay on one line

Attributes = dict[str, Any]  # of an HTML element; None is left out


@dataclass(frozen=True)
class Cell:
    """What stands in a table.

    Args:
        text: plain text.
        value: what the column is sorted by; None for words, which sort as they are, and for what was not measured.
        bad: marks what a reader must not overlook.
    """

    text: str
    value: float | None = None
    bad: bool = False


@dataclass(frozen=True)
class Column:
    """A head and what stands below it.

    Args:
        name: the head.
        cell: the cell of a row's item; a plain string is a cell without a value.
        group: neighbours of the same group share a head above theirs.
        words: holds names or sentences, left-aligned, rather than figures.
        ascending: the rows come sorted by this column.
    """

    name: str
    cell: Callable[[Any], Cell | str]
    group: str = ""
    words: bool = False
    ascending: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Args:
        caption: plain text above it.
        columns: from the left.
        items: what each row is of, from the top.
        sortable: heads become buttons (in a browser that runs the page's script).
        bad: which rows are marked.
    """

    caption: str
    columns: Sequence[Column]
    items: Sequence[Any]
    sortable: bool = False
    bad: Callable[[Any], bool] = lambda _: False

    def heads(self) -> list[list[tuple[Attributes, str]]]:
        """One row of heads, or two where columns are grouped: what is in no group spans both."""
        grouped = any(column.group for column in self.columns)
        top, below = [], []
        for group, members in groupby(enumerate(self.columns), key=lambda member: member[1].group):
            heads = [self._head(index, column, spans=grouped and not group) for index, column in members]
            if group:
                top.append(({"scope": "colgroup", "colspan": len(heads)}, group))
                below += heads
            else:
                top += heads
        return [row for row in (top, below) if row]

    def rows(self) -> Iterator[tuple[Attributes, tuple[Attributes, str], list[tuple[Attributes, str]]]]:
        """Attributes of each row, its name, and its other cells."""
        for item in self.items:
            cells = [(column, column.cell(item)) for column in self.columns]
            (_, name), *others = ((column, Cell(cell) if isinstance(cell, str) else cell) for column, cell in cells)
            head = {"scope": "row", "class": _look(len(name.text), text=True)}, name.text
            yield {"class": "bad" if self.bad(item) else None}, head, [_cell(*other) for other in others]

    def _head(self, index: int, column: Column, spans: bool) -> tuple[Attributes, str]:
        return {
            "scope": "col",
            "class": _look(len(column.name), text=column.words, first=index == 0),
            "rowspan": 2 if spans else None,
            "data-column": index if self.sortable else None,
            "aria-sort": "ascending" if column.ascending else None,
        }, column.name


def _cell(column: Column, cell: Cell) -> tuple[Attributes, str]:
    value = None if cell.value is None else repr(cell.value)
    return {"class": _look(len(cell.text), text=column.words, bad=cell.bad), "data-value": value}, cell.text


def _look(length: int, **classes: bool) -> str | None:
    """The CSS classes that hold, ``long`` for a text of so many characters that it must wrap."""
    return " ".join(name for name, holds in {**classes, "long": length > _LONG}.items() if holds) or None


def texts(head: str, of: Callable[[Any], Cell | str], group: str = "") -> Column:
    """A column of names or sentences."""
    return Column(head, of, group, words=True)


def figures(
    head: str,
    of: Callable[[Any], float | None],
    digits: int,
    group: str = "",
    sign: bool = False,
    ascending: bool = False,
) -> Column:
    """A column of :func:`number`."""
    return Column(head, lambda item: number(of(item), digits, sign), group, ascending=ascending)


def faults(head: str, of: Callable[[Any], int], group: str = "") -> Column:
    """A column of numbers of faults, marked where there are any."""
    return Column(head, lambda item: bad_count(of(item)), group)


def number(value: float | None, digits: int, sign: bool = False) -> Cell:
    """A figure of so many decimals; None and NaN were not measured."""
    if value is None or not math.isfinite(value):
        return Cell(NOTHING)
    shown = round(value, digits) + 0.0  # never -0.0
    return Cell(f"{shown:{'+' if sign and shown else ''}.{digits}f}", value)


def interval(low: float | None, high: float | None, digits: int, sign: bool = False) -> Cell:
    """``low to high``, sorted by its low end."""
    ends = number(low, digits, sign), number(high, digits, sign)
    if any(end.value is None for end in ends):
        return Cell(NOTHING)
    return Cell(f"{ends[0].text} to {ends[1].text}", low)


def fault_columns(
    of: Callable[[Any], Mapping[str, Any]], places: Callable[[Any], int], group: str = ""
) -> list[Column]:
    """Missed structures and false alarms, each with what it could have been (``7 of 44``), marked where there are any.

    Args:
        of: the counts of a row's item, see :func:`..evaluation.case_report.fault_texts`.
        places: cases times classes of it.
        group: the head above.
    """

    def column(kind: str, title: str) -> Column:
        return Column(title.lower(), lambda item: fault_cell(of(item), places(item), kind), group)

    return [column(kind, title) for kind, title in FAULTS.items()]


def fault_cell(counts: Mapping[str, Any], places: int, kind: str) -> Cell:
    """``7 of 44``, marked where there are any; ``kind`` is one of :data:`~..evaluation.case_report.COUNTS`."""
    return Cell(fault_texts(counts, places)[kind], counts[kind], bad=counts[kind] > 0)


def bad_count(count: int) -> Cell:
    """A number of faults, marked where there are any."""
    return Cell(str(count), count, bad=count > 0)


def counted(count: int, thing: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
