"""Stub: to be written."""

from torch import nn


class LowConfidenceConsistencyLoss(nn.Module):
    """Stub."""
