"""Stub: to be written."""

from .base import Method


class ContrastiveMutual(Method):
    """Stub."""
