"""What custom/advice.py says of terms that add nothing; of a term that harms: tests/test_trainer.py."""

from __future__ import annotations

import logging
import math
from typing import ClassVar

import pytest
import tiny
from monai.handlers import ValidationHandler
from torch import Tensor

from custom.methods import Supervised
from custom.training.advice import terms_at_zero


def told(values: list[float | None], epochs: int) -> str | None:
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
    assert (told(values, epochs) is not None) == speaks


def test_the_sentence_names_the_term_its_epochs_and_where_to_look():
    assert told([None, 0.0, 0.0, None], 4) == (
        "The term ranked was 0 in every epoch that computed it (2 to 3): it trains nothing. Look at what is watched in "
        "learning_curves.png: nothing may pass a threshold, or no batch hold what the term compares. If that is meant "
        "to be so, --weights::ranked 0 saves its time."
    )


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
