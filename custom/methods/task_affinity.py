"""Stub: to be written."""

from .base import Method


class TaskAffinity(Method):
    """Stub."""
