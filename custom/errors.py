"""Faults that a user can mend: their text is the whole report, and the command line shows it without a traceback."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Iterator
from types import TracebackType


class UserError(Exception):
    """Base of the errors whose text says which case, what was found, what was expected, what to do."""


class MissingPackages(UserError, ImportError):
    """The Python that runs lacks what everything here needs."""


def nearest(name: str, known: Collection[str]) -> str:
    """`` (did you mean 'x'?)`` for error texts, or nothing where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def show_plainly() -> None:
    """Let an uncaught :class:`UserError` end the process with its text alone, from now on.

    MONAI wraps whatever an expression raises into "Failed to evaluate ...", which would otherwise be the last line
    that a user sees, below a page of traceback. Everything else is shown as before.
    """
    if sys.excepthook is not _show:
        global _before
        _before, sys.excepthook = sys.excepthook, _show


_before = sys.__excepthook__


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    report = next((e for e in _chain(error) if isinstance(e, UserError)), None)
    if report is None:
        _before(kind, error, trace)
    else:
        print(f"\nerror: {report}", file=sys.stderr)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
