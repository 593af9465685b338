"""Tables in Markdown that are readable as plain text too."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose columns are as wide as their widest cell; a ``|`` in a cell becomes ``/``.

    Args:
        head: the columns' titles.
        rows: as many cells as titles each.
        texts: how many columns from the left hold text and are aligned left; numbers are aligned right.

    Raises:
        ValueError: a row of another length.
    """
    lines = [[cell.replace("|", "/") for cell in line] for line in (head, *rows)]
    widths = [max(2, *map(len, column)) for column in zip(*lines, strict=True)]  # `-:` is the shortest rule
    rule = ["-" * width if i < texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join(_line(line, widths, texts) for line in [lines[0], rule, *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int], texts: int) -> str:
    sized = zip(cells, widths, strict=True)
    return "| " + " | ".join(c.ljust(w) if i < texts else c.rjust(w) for i, (c, w) in enumerate(sized)) + " |"
