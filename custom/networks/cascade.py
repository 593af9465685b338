"""Stub: to be written."""

from torch import nn


class Cascade(nn.Module):
    """Stub."""
