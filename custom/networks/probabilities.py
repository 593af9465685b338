"""What a network's logits say of the classes: their softmax, unless the network was trained with maps of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

Probabilities = Callable[[Tensor], Tensor]
"""Turns logits ``(B, K, *spatial)`` into probabilities of that shape, each in [0, 1]."""

softmax: Probabilities = partial(torch.softmax, dim=1)


def probabilities_of(network: nn.Module) -> Probabilities:
    """Return the network's own ``probabilities``, else :data:`softmax`."""
    return getattr(network, "probabilities", softmax)
