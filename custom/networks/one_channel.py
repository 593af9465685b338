"""Stub: to be written."""

from torch import nn


class OneChannel(nn.Module):
    """Stub."""
