"""Stub: to be written."""

from torch import nn


class ClassSeparationLoss(nn.Module):
    """Stub."""
