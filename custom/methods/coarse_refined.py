"""Stub: to be written."""

from .base import Method


class CoarseRefined(Method):
    """Stub."""
