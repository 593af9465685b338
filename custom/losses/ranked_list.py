"""Stub: to be written."""

from torch import nn


class RankedListLoss(nn.Module):
    """Stub."""
