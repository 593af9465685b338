"""Stub: to be written."""

from .base import Method


class LowConfidence(Method):
    """Stub."""
