"""Stub: to be written."""

from torch import nn


class AreaSimilarityContrastiveLoss(nn.Module):
    """Stub."""
