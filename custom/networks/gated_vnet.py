"""Stub: to be written."""

from torch import nn


class GatedVNet(nn.Module):
    """Stub."""
