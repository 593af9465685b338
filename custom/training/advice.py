"""What the table of a run says about its settings."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from ..methods import Method
from .unlabelled import empty_teacher, weak_terms

logger = logging.getLogger(__name__)

MARGIN = 0.03  # of Dice: less is noise


def falling_while_rising(
    rows: Sequence[Mapping[str, float]], networks: Sequence[str], terms: Sequence[str]
) -> str | None:
    """A network scores 3 points of Dice below its best, and a term's weight has risen since then.

    Args:
        rows: of ``metrics.csv``; the last one is judged.
        networks: trained networks that are validated. A teacher is an average: it turns down later.
        terms: that read unlabelled scans.

    Returns:
        A sentence for the log, or None.
    """
    now = rows[-1]
    for network in networks:
        column = f"val/{network}/dice_mean"
        score = now.get(column, math.nan)
        best = max((r for r in rows if not math.isnan(r.get(column, math.nan))), key=lambda r: r[column], default=now)
        for term in terms:
            before, after = (row.get(f"weight/{term}", 0.0) for row in (best, now))
            if best.get(column, math.nan) - score >= MARGIN and after > before:
                return (
                    f"Validation of {network} is {score:.3f} at epoch {now['epoch']}, {best[column]:.3f} at epoch "
                    f"{best['epoch']}; in between the weight of {term} rose from {before:.2g} to {after:.2g}. The term "
                    f"may be too strong or come too early: lower weights::{term}, or begin it later (`from`)."
                )
    return None


def terms_at_zero(rows: Sequence[Mapping[str, float]], epochs: int) -> dict[str, str]:
    """Terms that were 0 in every epoch that computed them: in at least half of the run, or up to its end.

    Args:
        rows: of ``metrics.csv``, up to now.
        epochs: of the whole run.

    Returns:
        A sentence for the log, by the term's name.
    """
    advice = {}
    ended = rows[-1]["epoch"] >= epochs
    for column in dict.fromkeys(name for row in rows for name in row if name.startswith("term/")):
        computed = [row for row in rows if not math.isnan(row.get(column, math.nan))]
        silent = computed and not any(row[column] for row in computed)
        if silent and (ended or 2 * len(computed) >= epochs):
            term, first, last = column.removeprefix("term/"), computed[0]["epoch"], computed[-1]["epoch"]
            advice[term] = (
                f"The term {term} was 0 in every epoch that computed it ({first:g} to {last:g}): it trains nothing. Look at "
                f"what is watched in learning_curves.png: nothing may pass a threshold, or no batch hold what the term "
                f"compares. If that is meant to be so, --weights::{term} 0 saves its time."
            )
    return advice


class Advice:
    """Warnings about a run's rows, each given once: a term that seems to harm, one that adds nothing, unlabelled scans that
    hardly count, a teacher that finds nothing."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def give(
        self, rows: Sequence[Mapping[str, float]], epochs: int, method: Method, later: Mapping[str, float]
    ) -> None:
        """Log what is new.

        Args:
            rows: of ``metrics.csv``, up to now.
            epochs: of the whole run.
            method: what is trained.
            later: the weights of the terms at the end of the run.
        """
        networks = method.serving().items()
        trained = [name for name, network in networks if any(p.requires_grad for p in network.parameters())]
        harm = {"": falling_while_rising(rows, trained, method.unlabelled_terms)}
        unlabelled = {"an empty teacher": empty_teacher(rows, epochs, method.unlabelled_terms)}
        if 2 * len(rows) >= epochs:
            unlabelled["weak terms"] = weak_terms(rows, method.unlabelled_terms, later)
        for about, text in {**harm, **terms_at_zero(rows, epochs), **unlabelled}.items():
            if text and about not in self._given:
                logger.warning(text)
                self._given.add(about)
