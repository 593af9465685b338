"""Representations of a class are brought near the prototype of their class."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional


class ClassSeparationLoss(nn.Module):
    r"""Distance in angle of chosen pixels to the prototypes of their classes.

    .. math:: L = \frac{1}{|C|} \sum_{c \in C} \frac{1}{|V_c|} \sum_{v \in V_c} \bigl(1 - \cos(h_v, P_c)\bigr),
              \quad V_c = \{v : M_v = 1, \text{class of } v = c\}

    over the classes :math:`C` that have a chosen pixel and a prototype. Every class weighs the same however few its
    pixels. A prototype of zeros is that of a class which was not seen yet, or of the background: it adds nothing.
    Where :math:`C` is empty the loss is 0. No gradient reaches the prototypes.

    With ``push`` the cross-entropy over the prototypes that there are,
    :math:`-\log \operatorname{softmax}_{c'}(\cos(h_v, P_{c'}) / T)_c`, takes the place of the distance: a pixel is then
    also pushed away from the prototypes of the other classes.

    Args:
        push: take the cross-entropy over prototypes.
        temperature: :math:`T` of the cross-entropy, > 0.
        max_pixels: at most so many pixels of each class, drawn without repetition; None takes all.

    Shape:
        - features: ``(B, D, *spatial)``, any number of spatial axes; computed in float32 or better, under autocast too.
        - classes: ``(B, *spatial)``, integers in [0, K). mask: ``(B, *spatial)`` bool, the chosen pixels.
        - prototypes: ``(K, D)``.
        - generator: of the drawing, on the CPU; the global one where it is None.
        - returns: ``()``, dimensionless, in [0, 2] without ``push``.

    Raises:
        ValueError: an argument outside these; shapes that do not fit.

    References: Gao and Yu 2023, doi 10.1109/ISBP57705.2023.10061306 (the idea; the distance is not in its abstract).
    """

    def __init__(self, push: bool = False, temperature: float = 0.1, max_pixels: int | None = None) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is above 0, got {temperature}")
        if max_pixels is not None and max_pixels < 1:
            raise ValueError(f"max_pixels is at least 1, or null for all pixels, got {max_pixels}")
        self.push, self.temperature, self.max_pixels = push, temperature, max_pixels

    def forward(
        self, features: Tensor, classes: Tensor, mask: Tensor, prototypes: Tensor, generator: Generator | None = None
    ) -> Tensor:
        _check_shapes(features, classes, mask, prototypes)
        prototypes = prototypes.detach()
        known = prototypes.any(dim=1)  # (K,)
        place = (mask & known[classes]).flatten().nonzero().squeeze(1)  # (V,) positions in (B, *spatial)
        if self.max_pixels is not None:
            place = _draw(place, classes.flatten()[place], self.max_pixels, generator)
        members = functional.one_hot(classes.flatten()[place], len(prototypes))  # (V, K)
        with torch.autocast(features.device.type, enabled=False):  # it would take the products in half precision
            cosine = _cosines(features.movedim(1, -1).flatten(0, -2).index_select(0, place), prototypes)  # (V, K)
            distance = 1 - cosine
            if self.push:
                distance = -(cosine / self.temperature).masked_fill(~known, -torch.inf).log_softmax(dim=1)
            sums = distance.where(members.bool(), 0).sum(dim=0)  # (K,)
        pixels = members.sum(dim=0)
        return (sums / pixels.clamp(min=1)).sum() / (pixels > 0).sum().clamp(min=1)


def _cosines(features: Tensor, prototypes: Tensor) -> Tensor:
    """``(V, D)`` and ``(K, D)`` to ``(V, K)``."""
    precise = torch.promote_types(features.dtype, torch.float32)
    h, p = (functional.normalize(x.to(precise), dim=1) for x in (features, prototypes))
    return h @ p.T


def _draw(place: Tensor, classes: Tensor, at_most: int, generator: Generator | None) -> Tensor:
    """Positions ``(V,)`` of at most ``at_most`` random members of each class."""
    if len(place) <= at_most:
        return place
    order = torch.randperm(len(place), generator=generator).to(place.device)
    by_class, within = classes[order].sort(stable=True)
    sizes = by_class.bincount()
    rank = torch.arange(len(place), device=place.device) - (sizes.cumsum(0) - sizes)[by_class]
    return place[order[within[rank < at_most]]]


def _check_shapes(features: Tensor, classes: Tensor, mask: Tensor, prototypes: Tensor) -> None:
    pixels = (features.shape[0], *features.shape[2:])
    for name, found in (("classes", classes), ("mask", mask)):
        if found.shape != pixels:
            raise ValueError(
                f"features {tuple(features.shape)} have the pixels {pixels}, {name} is {tuple(found.shape)}"
            )
    if prototypes.dim() != 2 or prototypes.shape[1] != features.shape[1]:
        raise ValueError(
            f"prototypes {tuple(prototypes.shape)}: expected one row a class, as long as the features "
            f"{tuple(features.shape)} have channels, {features.shape[1]}"
        )
