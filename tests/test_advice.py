"""What custom/training says of terms that add nothing and of unlabelled scans that hardly count."""

from __future__ import annotations

import json
import logging
import math
from typing import ClassVar

import pytest
import tiny
import torch
from monai.handlers import ValidationHandler
from saying import says
from torch import Tensor

from custom.methods import Supervised
from custom.training.advice import terms_at_zero
from custom.training.unlabelled import ANSWERS, TEACHERS, empty_teacher, weak_terms


def advice_of(values: list[float | None], epochs: int) -> str | None:
    """The advice on a term with these values; None in an epoch that did not compute it."""
    rows = [{"epoch": i, "term/other": 0.5, **({} if value is None else {"term/ranked": value})}
            for i, value in enumerate(values, 1)]  # fmt: skip
    advice = terms_at_zero(rows, epochs)
    assert set(advice) <= {"ranked"}
    return advice.get("ranked")


@pytest.mark.parametrize(
    ("values", "epochs", "speaks"),
    [
        ([0.0, 0.0], 4, True),  # half of the run
        ([0.0, 0.0], 5, False),  # not yet
        ([None, None, None, 0.0], 4, True),  # the end
        ([None, None, 0.0], 4, False),
        ([0.0, 0.0, None, None], 4, True),
        ([0.0, math.nan], 4, False),  # one epoch is known
        ([0.0, 0.0, 0.0, 1e-9], 4, False),
        ([1e-9, 0.0, 0.0, 0.0], 4, False),
        ([None, None, None, None], 4, False),  # nobody wanted it
        ([math.nan] * 4, 4, False),
    ],
)
def test_a_term_that_stays_at_0_is_told_from_half_of_the_run_on_and_at_its_end(values, epochs, speaks):
    assert (advice_of(values, epochs) is not None) == speaks


def test_the_sentence_names_the_term_its_epochs_and_where_to_look():
    says(
        advice_of([None, 0.0, 0.0, None], 4),
        "ranked was 0 in every epoch", "(2 to 3)", "trains nothing", "learning_curves.png", "threshold", "batch", "compares",
        "--weights::ranked 0 saves its time",
    )  # fmt: skip


class Idle(Supervised):
    """Its second term finds nothing to compare; its third one does."""

    terms: ClassVar[tuple[str, ...]] = ("supervised", "idle", "busy")

    def forward(self, *batches_and_progress) -> dict[str, Tensor]:
        terms = super().forward(*batches_and_progress)
        return {**terms, "idle": 0 * terms["supervised"], "busy": 0.1 * terms["supervised"]}


@pytest.mark.parametrize("validation", [2, 0])
def test_a_run_says_so_once_with_and_without_validation(tmp_path, caplog, validation):
    method = Idle(tiny.network(), tiny.supervised_loss())
    weights = dict.fromkeys(method.terms, 1.0)
    made = tiny.trainer(method, tmp_path, epochs=4, epoch_steps=1, weights=weights, validation=validation)
    if validation:
        ValidationHandler(1, made.validator).attach(made)
    with caplog.at_level(logging.WARNING):
        made.run()
    said = [text for text in caplog.messages if "trains nothing" in text]
    assert len(said) == 1
    assert said[0].startswith("The term idle was 0 in every epoch that computed it (1 to ")


def epochs_of(terms, weights=None, **watched):
    """Rows of ``metrics.csv``: the supervised term is 1; of the other one these values, with these weights."""
    weights = weights or [1.0] * len(terms)
    return [
        {"epoch": i, "term/supervised": 1.0, "weight/supervised": 1.0, "weight/consistency": weight,
         **({} if term is None else {"term/consistency": term}), **{f"watch/{k}": v[i - 1] for k, v in watched.items()}}
        for i, (term, weight) in enumerate(zip(terms, weights, strict=True), 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("terms", "weights", "later", "speaks"),
    [
        ([0.005, 0.009], None, None, True),  # 0.9 % of 1.009
        ([0.005, 0.0102], None, None, False),  # 1.01 % in one epoch
        ([0.09, 0.09], [0.1, 0.1], None, True),
        ([0.09, 0.09], [0.01, 0.02], {"consistency": 0.1}, True),
        ([0.09, 0.09], [0.01, 0.02], {"consistency": 1.0}, False),  # its ramp has only begun
        ([None, 0.005], None, None, True),
        ([None, 0.5], None, None, False),
        ([None, None], None, None, False),  # nothing was computed
        ([0.0, 0.0], None, None, False),  # another advice speaks of it
        ([0.5, 0.5], [0.0, 0.0], None, False),
    ],
)
def test_unlabelled_terms_below_one_percent_of_the_loss_are_told(terms, weights, later, speaks):
    assert (weak_terms(epochs_of(terms, weights), ["consistency"], later) is not None) == speaks


def test_the_sentence_on_weak_terms():
    text = weak_terms(epochs_of([0.001, 0.004]), ["consistency"])
    says(
        text, "unlabelled scans (consistency)", "at most 0.4 % of the loss", "(1 to 2)", "Raise", "weights::consistency"
    )


@pytest.mark.parametrize(
    ("shares", "epochs", "speaks"),
    [
        ([0.0, 0.1, 0.1, 0.1], 4, True),  # a quarter
        ([0.0, 0.1, 0.1, 0.1], 5, False),
        ([9e-6, 1e-5], 4, True),
        ([1e-5, 1e-5], 2, False),
        ([math.nan, 0.1], 2, False),
    ],
)
@pytest.mark.parametrize("name", [*TEACHERS, *ANSWERS])
def test_a_teacher_that_finds_nothing_in_a_quarter_of_the_run_is_told(name, shares, epochs, speaks):
    rows = epochs_of([0.5] * len(shares), **{name: shares})
    assert (empty_teacher(rows, epochs, ["consistency"]) is not None) == speaks


@pytest.mark.parametrize(("terms", "weights"), [([None, None, 0.5], None), ([0.5, 0.5, 0.5], [0.0, 0.0, 1.0])])
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_nothing_reads_yet_may_be_empty(name, terms, weights):
    rows = epochs_of(terms, weights, **{name: [0.0, 0.0, 0.1]})
    assert empty_teacher(rows, 3, ["consistency"]) is None
    assert empty_teacher(epochs_of([0.0] * 3, **{name: [0.0, 0.0, 0.1]}), 3, ["consistency"]) is not None


@pytest.mark.parametrize("bundle", tiny.METHODS)
def test_every_method_that_reads_unlabelled_scans_watches_how_full_its_answers_are(tmp_path, bundle):
    made = tiny.trainer(bundle, tmp_path, epochs=2, epoch_steps=2)
    made.run()
    watched = set(made.method.watch()).intersection([*TEACHERS, *ANSWERS])
    assert bool(watched) == bool(made.method.unlabelled_terms)


@pytest.mark.parametrize(
    ("name", "who", "voxels"),
    [
        ("unlabelled_foreground", "network", "unlabelled voxels"),
        ("foreground/refined", "refined network", "voxels"),
        ("foreground/coarse", "coarse network", "voxels"),
    ],
)
def test_the_sentence_on_an_empty_answer(name, who, voxels):
    says(
        empty_teacher(epochs_of([0.5] * 3, **{name: [0.0, 0.0, 0.2]}), 3, ["consistency"]),
        f"The {who} was empty in 2 of 3 epochs", f"({name} below 1e-05 of the {voxels})", "(consistency)", "background alone",
        "later (`from`)", "longer", "label more",
    )  # fmt: skip


def test_the_sentence_on_an_empty_teacher():
    says(
        empty_teacher(epochs_of([1.0] * 3, teacher_foreground=[0.0, 0.0, 0.2]), 3, []),
        "The teacher was empty in 2 of 3 epochs", "(teacher_foreground below 1e-05 of the unlabelled voxels)",
        "taught that there is nothing", "later (`from`)", "longer", "label more",
    )  # fmt: skip


class Faint(Supervised):
    """Its unlabelled term is a thousandth of the other, and its teacher finds nothing."""

    terms: ClassVar[tuple[str, ...]] = ("supervised", "faint")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("faint",)

    def forward(self, *batches_and_progress) -> dict[str, Tensor]:
        terms = super().forward(*batches_and_progress)
        return {**terms, "faint": 0.001 * terms["supervised"]}

    def watch(self) -> dict[str, Tensor]:
        return {"teacher_foreground": torch.tensor(0.0)}


def test_a_run_whose_unlabelled_scans_hardly_count_says_so_once_and_leaves_their_terms_on_disk(tmp_path, caplog):
    method = Faint(tiny.network(), tiny.supervised_loss())
    made = tiny.trainer(
        method, tmp_path, epochs=4, epoch_steps=1, weights=dict.fromkeys(method.terms, 1.0), validation=2
    )
    ValidationHandler(1, made.validator).attach(made)
    with caplog.at_level(logging.WARNING):
        made.run()
    (text,) = (text for text in caplog.messages if "hardly train" in text)
    says(text, "(faint)", "at most 0.1 % of the loss", "(1 to 2)", "the weight it ends with", "Raise", "weights::faint")
    assert len([text for text in caplog.messages if text.startswith("The teacher was empty in 1 of 1 epochs")]) == 1
    (about,) = tmp_path.rglob("run.json")
    assert json.loads(about.read_text())["terms that read unlabelled scans"] == ["faint"]
