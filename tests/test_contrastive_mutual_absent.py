"""Contrastive mutual learning as its bundle sets it up, whichever modalities the patches of a batch lack."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import BUNDLES
from contrastive_batches import END, FLAIR, STAGE_1, batch, progress
from monai.bundle import ConfigParser

from custom.methods import ContrastiveMutual
from custom.methods.batch import StrongView
from custom.stream.mixing import Mix

BUNDLE = next(path for path in BUNDLES if path.name == "contrastive_mutual")
FORMS = {"as it is": [], "as published": ["published.yaml"]}
COMBINATIONS = list(itertools.product([[0, 0], [1, 0], [0, 1], [1, 1]], repeat=4))  # of two and two patches


@pytest.fixture
def of_bundle(bundle_cwd: Callable[[Path], None]) -> Callable[..., ContrastiveMutual]:
    """``of_bundle("as it is", **overrides)``: the method of the bundle's config on a small network."""

    def make(form: str, **overrides: object) -> ContrastiveMutual:
        bundle_cwd(BUNDLE)
        config = ConfigParser({})
        config.read_config([str(BUNDLE / "configs" / name) for name in ("train.yaml", *FORMS[form])])
        config.update({"widths": [4, 8], "dropout": [0.0, 0.1], "classes": ["background", "tumour"], **overrides})
        torch.manual_seed(0)
        method = config.get_parsed_content("train::method").train()
        method.begin()
        return method

    return make


def halves(present):
    """Two labelled and two unlabelled patches, with a strong view whose boxes show the other patch."""
    labelled, unlabelled = batch(2, present=present[:2], labelled=True, seed=1), batch(2, present=present[2:], seed=2)
    box = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    box[..., :4] = True
    mix = Mix(box)
    unlabelled.strong = (StrongView(mix(unlabelled.image) ** 2, mix),)
    return labelled, unlabelled


@pytest.mark.parametrize(
    ("form", "contrast", "wanted"),
    [
        ("as it is", "objects", STAGE_1),
        ("as it is", "all", ("contrastive",)),
        ("as published", "objects", STAGE_1),
        ("as it is", "objects", END),
    ],
)
def test_a_step_goes_on_whatever_modalities_its_patches_lack(of_bundle, form, contrast, wanted):
    """All 256 combinations: no error, no NaN, each term with a way back to the weights, 0 where it has nothing to compare."""
    method, at = of_bundle(form, contrast=contrast, strong="first"), progress(*wanted)
    for present in COMBINATIONS:
        terms = method(*halves(present), at)
        assert list(terms) == list(wanted), present
        assert all(term.isfinite() and term.requires_grad for term in terms.values()), present
        pairs = sum(row == [1, 1] for row in present[2:])
        needs = {
            "supervised": sum(map(sum, present[:2])) > 0,
            "contrastive": pairs > 1,
            "consistency": pairs > 0,
            "relearn": pairs > 0,
            "relearn_strong": sum(row[FLAIR] for row in present[2:]) > 0,
        }
        assert all(needs[name] or term.item() == 0 for name, term in terms.items()), present


def test_where_one_network_sees_no_patch_at_all_the_contrast_is_0(of_bundle):
    """No labelled patch has the second modality, and no unlabelled one has both."""
    method = of_bundle("as it is")
    assert (method.contrast, method.strong_views) == ("objects", 1)
    labelled = batch(3, present=[[1, 0]] * 3, labelled=True, seed=1)
    term = method(labelled, batch(2, present=[[1, 0], [0, 1]], seed=2), progress(*STAGE_1))["contrastive"]
    term.backward()
    assert term.item() == 0
    assert method.watch()["contrastive/objects"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.networks.parameters())
