"""The one seam that all methods share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from .batch import Batch
from .schedule import Progress, TermWeights


class Method(nn.Module):
    """What a pair of batches costs. The trainer optimises, guards and reports; a method knows no files, devices, logs.

    A method owns its networks, teachers, prototypes and heads as submodules and buffers: all of it is in its
    ``state_dict`` and so in every checkpoint. Parameters that require a gradient are what the optimiser trains.

    ``forward`` is the only way into its networks while training: under DDP the whole method is wrapped, and a network
    that is called past the wrapper trains each rank apart. Terms are named and **not weighted**: the config weighs
    them in one place. A term with weight 0 (``progress.wants(term)`` is false) must be neither computed nor returned.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised",)
    """Names of all terms that ``forward`` can return."""

    unlabelled_terms: ClassVar[tuple[str, ...]] = ()
    """Those of them that need the unlabelled stream. Where none of them has a weight the unlabelled batch is
    empty (B = 0) and no patch is drawn for it."""

    pairs: ClassVar[tuple[str, ...]] = ()
    """Those that take labelled and unlabelled patches in pairs: both batches are of one size where one has a weight."""

    strong_views: int = 0
    """How many strong views of the unlabelled patches ``forward`` reads."""

    strong_terms: ClassVar[tuple[str, ...]] = ()
    """Those of the unlabelled terms that read them, where not all do."""

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        """Every wanted term, a scalar with its gradient, by name."""
        raise NotImplementedError

    def views(self, weights: TermWeights) -> int:
        """How many strong views are drawn throughout a run: none where no term that reads them ever has a weight."""
        return 0 if weights.begins(self.strong_terms or self.unlabelled_terms) == math.inf else self.strong_views

    def begin(self) -> None:
        """Prepare a new run: called before its first step, after weights were loaded; not called on resume.

        A teacher takes the student's weights here.
        """

    def after_step(self, progress: Progress) -> None:
        """Update averages: called after each optimiser step that changed weights, not after one that the scaler skipped."""

    def after_validation(self, scores: Mapping[str, float], progress: Progress) -> None:
        """Take the validation scores: mean Dice of every served network by name, the same numbers on every rank."""

    def serving(self) -> dict[str, nn.Module]:
        """The networks that are validated and written, by name. The first decides which epoch is the best and
        becomes ``models/model.pt``, the others ``models/<name>.pt``; none holds a head that only training needs."""
        raise NotImplementedError

    def watch(self) -> dict[str, Tensor]:
        """What to look at beside the terms, as of the last ``forward``: scalars, detached, left on the device."""
        return {}
