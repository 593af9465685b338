"""Stub: to be written."""

from torch import nn


class TaskAffinityLoss(nn.Module):
    """Stub."""
