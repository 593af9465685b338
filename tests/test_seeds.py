"""The promises of custom/seeds.py."""

from __future__ import annotations

import hashlib
import itertools

from custom.seeds import derive


def test_a_seed_is_the_first_63_bits_of_sha256_over_the_names():
    expected = int(hashlib.sha256(b"7/3/0/labelled").hexdigest()[:16], 16) // 2
    assert derive(7, 3, 0, "labelled") == expected


def test_a_seed_never_changes_between_versions_or_processes():
    """A checkpoint of last year resumes bit for bit only while these numbers stay."""
    assert derive(0, "network") == 715385884120655211
    assert derive(0, 1, 0, "labelled") == 6348919844201199736


def test_other_seeds_epochs_ranks_and_streams_give_other_seeds():
    names = list(itertools.product(range(10), range(10), range(4), ("labelled", "unlabelled", "network")))
    assert len({derive(*name) for name in names}) == len(names)


def test_names_are_kept_apart():
    assert derive(1, 23) != derive(12, 3)
    assert derive(1, "a", "b") != derive(1, "ab")


def test_torch_and_numpy_take_every_seed():
    seeds = [derive(seed, "x") for seed in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62, "all bits are in use"
