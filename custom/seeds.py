"""Every random number is a function of the run's seed and a name, so that resume needs no saved generators."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: int | str) -> int:
    """A seed in [0, 2^63) for one purpose, for example ``derive(seed, epoch, rank, "labelled")``.

    Different names give independent streams: the bits are those of SHA-256 over the names.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
