"""Who trains, who validates and who stays unlabelled in one round of training: by names alone, nothing read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from custom.errors import UserError

HELD_OUT = 0.2  # share of the scans that validate as soon as they are labelled, and never train

# what the cohort check advises of a scan in two places, where the user has a data list
_OF_LISTS = re.compile(r"Remove (?:one entry, or set shared_scans to true|it from \w+ or from \w+)")


class RoundError(UserError, ValueError):
    """There is nothing to train on, or nothing to judge by."""


@dataclass(frozen=True)
class Round:
    """Image ids of each stream, in order; no id is in two of them."""

    labelled: list[str]
    validation: list[str]
    unlabelled: list[str]


def of_studies(text: str) -> str:
    """A fault of the cohort check in words of the app, which has a folder of images in place of a list."""
    return _OF_LISTS.sub("Take one of the two images, and its label, out of the studies", text)


def fraction(name: str) -> float:
    """A number in [0, 1) that only the name decides: the same in every round, on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def plan(images: Collection[str], labelled: Collection[str], learnt: Collection[str], serves: bool) -> Round:
    """Split the scans of a datastore for one round of training.

    Scans whose :func:`fraction` is below ``HELD_OUT`` validate once they are labelled and are in no other stream before,
    so that weights are compared on scans of which neither has seen even the image. While none of these is labelled, the
    labelled scan of the smallest fraction that no kept version has learnt validates; and where all labelled scans are
    held out, all except the smallest of them train.

    Args:
        images: ids of all scans.
        labelled: ids of those that have a label.
        learnt: ids that a kept version was trained on with their labels: they no longer judge.
        serves: whether there are weights to compare with; without them two scans are not needed.

    Raises:
        RoundError: no labelled scan; one, where another must judge; all of them learnt already.
    """
    known = sorted(set(labelled) & set(images), key=fraction)
    if not known:
        raise RoundError("no labelled scan: Train needs labels. Save one, then press Train again")
    validation = _validation(known, set(learnt), serves)
    training = [name for name in known if name not in validation]
    unlabelled = [name for name in images if name not in known and fraction(name) >= HELD_OUT]
    return Round(sorted(training), sorted(validation), sorted(unlabelled))


def _validation(known: list[str], learnt: set[str], serves: bool) -> list[str]:
    """``known`` by fraction, the smallest first."""
    if len(known) == 1:
        if serves:
            raise RoundError("1 labelled scan: Train needs 2, one to learn from and one to judge by")
        return []
    fresh = [name for name in known if name not in learnt]
    if not fresh and serves:
        raise RoundError(
            f"all {len(known)} labelled scans were learnt by a version that is kept: none is left to judge by. "
            "Label one more scan, then press Train again"
        )
    held_out = [name for name in fresh if fraction(name) < HELD_OUT]
    return held_out if 0 < len(held_out) < len(known) else fresh[:1]
