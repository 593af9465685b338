"""A folder of published bundles, a folder to download to, and no waiting between attempts."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    from distribution import transfer

    monkeypatch.setattr(transfer, "WAIT_S", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    from bundle_server import publish

    publish(tmp_path / "dist", "0.1.0")
    return tmp_path / "dist"


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "to"
