"""Reading the page of a study, and making one fast."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from custom.study import handed_over, verdict


def words(page: str) -> str:
    """The text of a page as it is read."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            found.append(data)

    Reader().feed(re.sub(r"<(style|script).*?</\1>", "", page, flags=re.S))
    return " ".join(" ".join(found).split())


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes long in a study's page: a picture a scan, and the page of both."""
    monkeypatch.setattr(handed_over.preview, "write", lambda *_: None)
    monkeypatch.setattr(handed_over.preview, "write_sheet", lambda *_: None)
    monkeypatch.setattr(handed_over, "_address", lambda _: "")
    monkeypatch.setattr(verdict.pair, "compare_report", lambda *_, **__: None)
