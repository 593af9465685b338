"""The blocks of a page: tables, tiles, figures. Every name is data: it is escaped here, and only here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

TEMPLATE = Path(__file__).with_name("page.html")
_LONG = 22  # characters of a name that may stay on one line
NOTHING = "\N{EN DASH}"  # in the place of what was not measured


@dataclass(frozen=True)
class Cell:
    """What stands in a table.

    Args:
        text: plain text.
        value: what the column is sorted by; None for words, which sort as they are, and for what was not measured.
        bad: marks what a reader must not overlook.
        words: a name or a sentence, left-aligned, rather than a figure.
    """

    text: str
    value: float | None = None
    bad: bool = False
    words: bool = False


@dataclass(frozen=True)
class Column:
    """A column's head; neighbours of the same ``group`` share a head above theirs.

    Args:
        ascending: the rows come sorted by this column.
    """

    name: str
    group: str = ""
    words: bool = False
    ascending: bool = False


def number(value: float | None, digits: int, sign: bool = False) -> Cell:
    """A figure of so many decimals; None and NaN were not measured."""
    if value is None or not math.isfinite(value):
        return Cell(NOTHING)
    shown = round(value, digits) + 0.0  # never -0.0
    return Cell(f"{shown:{'+' if sign and shown else ''}.{digits}f}", value)


def words(text: str) -> Cell:
    """A cell that holds text: it stands on the left, and sorts by letters."""
    return Cell(text, words=True)


def interval(low: float | None, high: float | None, digits: int, sign: bool = False) -> Cell:
    """``low to high``, sorted by its low end."""
    ends = number(low, digits, sign), number(high, digits, sign)
    if any(end.value is None for end in ends):
        return Cell(NOTHING)
    return Cell(f"{ends[0].text} to {ends[1].text}", low)


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    sortable: bool = False,
    bad_rows: Sequence[bool] = (),
) -> str:
    """A table whose first column names its rows, in a box that scrolls by itself where the window is narrow.

    Args:
        caption: plain text above it.
        columns: the heads.
        rows: as many cells each.
        sortable: heads become buttons (in a browser that runs the page's script).
        bad_rows: marks whole rows; as many as ``rows``, or none.
    """
    marks = bad_rows or [False] * len(rows)
    body = "\n".join(_row(row, bad) for row, bad in zip(rows, marks, strict=True))
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table{_class('sortable' * sortable)}>\n<caption><span>{escape(caption)}</span></caption>\n"
        f"<thead>\n{_head(columns, sortable)}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _head(columns: Sequence[Column], sortable: bool) -> str:
    """One row of heads, or two where columns are grouped: what is in no group spans both."""
    grouped = any(column.group for column in columns)
    top, below, index = [], [], 0
    for group, members in groupby(columns, key=lambda column: column.group):
        cells = []
        for column in members:
            cells.append(_column_head(column, index, sortable, rows=2 if grouped and not group else 1))
            index += 1
        if group:
            top.append(f'<th scope="colgroup" colspan="{len(cells)}">{escape(group)}</th>')
            below += cells
        else:
            top += cells
    return "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in (top, below) if cells)


def _column_head(column: Column, index: int, sortable: bool, rows: int) -> str:
    look = _look(len(column.name), text=column.words, first=index == 0)
    span = f' rowspan="{rows}"' if rows > 1 else ""
    place = f' data-column="{index}"' if sortable else ""
    order = ' aria-sort="ascending"' if column.ascending else ""
    return f'<th scope="col"{_class(look)}{span}{place}{order}>{escape(column.name)}</th>'


def _row(cells: Sequence[Cell], bad: bool) -> str:
    first, *others = cells
    head = f'<th scope="row"{_class(_look(len(first.text), text=True))}>{escape(first.text)}</th>'
    return f"<tr{_class('bad' * bad)}>{head}{''.join(_cell(cell) for cell in others)}</tr>"


def _cell(cell: Cell) -> str:
    look = _look(len(cell.text), text=cell.words, bad=cell.bad)
    value = f' data-value="{cell.value!r}"' if cell.value is not None else ""
    return f"<td{_class(look)}{value}>{escape(cell.text)}</td>"


def _look(length: int, **classes: bool) -> str:
    """Names of the classes that hold, ``long`` for a text of so many characters that it must wrap."""
    return " ".join(name for name, holds in {**classes, "long": length > _LONG}.items() if holds)


def _class(look: str) -> str:
    return f' class="{look}"' if look else ""


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """The headline: name, figure and what is said below it, of each."""
    blocks = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(figure)}<small>{escape(below)}</small></dd></div>"
        for name, figure, below in entries
    )
    return f'<dl class="tiles">{"".join(blocks)}</dl>'


def paragraph(text: str, look: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(look)}>{escape(text)}</p>"


def bullets(texts: Sequence[str]) -> str:
    """A list of plain texts."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>"


def chart(svg: str, caption: str, wide: bool = False) -> str:
    """A figure that carries its own description; ``wide`` scrolls where the window is narrow."""
    look = "chart wide" if wide else "chart"
    return f'<figure class="{look}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def charts(figures: Sequence[str]) -> str:
    """Figures side by side, as far as the page is wide."""
    return f'<div class="charts">{"".join(figures)}</div>'


def panels(heading: str, pictures: Sequence[tuple[str, str, str]]) -> str:
    """The pictures of a case side by side: address (``data:``), alternative text and caption of each."""
    blocks = (
        f'<figure><img src="{source}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'
        for source, alt, caption in pictures
    )
    return f'<div class="case"><h3>{escape(heading)}</h3><div class="panels">{"".join(blocks)}</div></div>'


def key(colours: Sequence[tuple[str, str]]) -> str:
    """Which colour is which class, of the pictures of cases."""
    entries = (f'<li><i style="color: {colour}"></i>{escape(name)}</li>' for name, colour in colours)
    return f'<ul class="key">{"".join(entries)}<li><i class="dashed"></i>reference, over a prediction</li></ul>'


def folded(summary: str, inside: str) -> str:
    """What shows when its ``summary`` is clicked; ``inside`` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def page(title: str, below: str, top: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole page.

    Args:
        title: plain text, of the window and of the page.
        below: plain text under the title.
        top: HTML of what stands before the first section.
        sections: heading (plain text) and content (HTML) of each; one without content is left out.
    """
    kept = [(heading, content) for heading, content in sections if content]
    links = "".join(f'<li><a href="#s{i}">{escape(heading)}</a></li>' for i, (heading, _) in enumerate(kept))
    body = "\n".join(
        f'<section aria-labelledby="s{i}"><h2 id="s{i}">{escape(heading)}</h2>\n{content}\n</section>'
        for i, (heading, content) in enumerate(kept)
    )
    header = f"<header><h1>{escape(title)}</h1>{paragraph(below, 'faint')}</header>"
    main = f'{header}\n<main>\n{top}\n<nav aria-label="Contents"><ul>{links}</ul></nav>\n{body}\n</main>'
    return TEMPLATE.read_text(encoding="utf-8").replace("<!--title-->", escape(title)).replace("<!--body-->", main)
