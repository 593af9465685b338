"""Weights, windows and learning rates are functions of the position in the run."""

from __future__ import annotations

import math

import pytest

from custom.methods.schedule import Milestones, PolyDecay, Progress, TermWeights, ramp_up

TERMS = ("supervised", "consistency", "relearn")


def weights(**spec):
    return TermWeights({"supervised": 1.0, "consistency": 0, "relearn": 0, **spec}, TERMS)


def at(step, steps=100, epochs=10, w=None):
    return Progress(step, steps, step * epochs // steps + 1, epochs, w)


def test_the_ramp_starts_at_e_to_the_minus_5_and_ends_at_1():
    assert ramp_up(0) == pytest.approx(0.0067379, abs=1e-7)
    assert ramp_up(0.5) == pytest.approx(math.exp(-1.25))
    assert ramp_up(1) == ramp_up(7) == 1


def test_a_ramp_is_a_fraction_of_the_whole_run():
    w = weights(consistency={"ramp": 0.1, "until": 1.0})
    assert w.at(0.0)["consistency"] == pytest.approx(0.1 * math.exp(-5))
    assert w.at(0.5)["consistency"] == pytest.approx(0.1 * math.exp(-1.25))


def test_a_ramp_may_end_behind_the_run():
    """ramp(epoch; 200) of a run of 81 epochs: 0.1 of the way up, not more."""
    assert weights(consistency={"ramp": 1.0, "until": 200 / 81}).at(1.0)["consistency"] == pytest.approx(
        math.exp(-5 * (1 - 81 / 200) ** 2)
    )


def test_a_ramp_that_starts_late_starts_from_the_bottom():
    w = weights(consistency={"ramp": 1.0, "from": 0.4, "until": 0.8})
    assert w.at(0.39)["consistency"] == 0
    assert w.at(0.4)["consistency"] == pytest.approx(math.exp(-5))
    assert w.at(0.8)["consistency"] == 1


def test_outside_its_window_a_term_weighs_0_and_is_not_wanted():
    w = weights(relearn={"value": 2.0, "from": 0.63}, consistency={"value": 1.0, "to": 0.63})
    for step in range(100):
        progress = at(step, w=w)
        assert progress.wants("relearn") == (step >= 63)
        assert progress.wants("consistency") == (step < 63)
        assert w.at(progress.fraction)["relearn"] == (2.0 if step >= 63 else 0.0)


def test_a_weight_of_0_is_an_ablation():
    assert not at(50, w=weights()).wants("consistency")
    assert weights().sometimes_off()
    assert not TermWeights({"supervised": 1.0}, ("supervised",)).sometimes_off()


def test_terms_that_this_run_cannot_have_weigh_nothing():
    w = TermWeights({"supervised": 1, "consistency": 1}, TERMS[:2], absent=["consistency"])
    assert not at(0, w=w).wants("consistency")


def test_a_term_that_makes_way_for_one_that_never_comes_stays():
    spec = {"supervised": {"value": 1, "to": 0.63}, "consistency": {"value": 1, "from": 0.63}}
    assert not at(63, w=TermWeights(spec, TERMS[:2])).wants("supervised")
    assert at(63, w=TermWeights(spec, TERMS[:2], absent=["consistency"])).wants("supervised")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"supervised": 0, "consistency": {"value": 1, "from": 0.2}}, "from 0 to 0.2 of the run"),
        ({"supervised": {"value": 1, "to": 0.5}, "consistency": {"value": 1, "from": 0.6}}, "from 0.5 to 0.6"),
        ({"supervised": {"value": 1, "to": 0.5}}, "from 0.5 to 1 of the run"),
        ({"supervised": 0}, "from 0 to 1"),
    ],
)
def test_a_time_without_any_term_is_refused(spec, text):
    with pytest.raises(ValueError, match=rf"no term has a weight {text}.*nothing to train. Give one of \['supervised'"):
        TermWeights({"supervised": 0, "consistency": 0, **spec}, TERMS[:2])


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"consistancy": 1.0}, r"weights::consistancy: the method has the terms .* \(did you mean 'consistency'\?\)"),
        ({"relearn": {"value": 1, "form": 0.5}}, r"weights::relearn::form is not one of .* \(did you mean 'from'\?\)"),
        ({"relearn": {"value": 1, "ramp": 1, "until": 1}}, "give either `value` or `ramp`"),
        ({"relearn": {"ramp": 1}}, "`ramp` goes with `until`"),
        ({"relearn": {"value": 1, "from": 0.5, "to": 0.5}}, "the window is empty"),
        ({"relearn": {"ramp": 1, "from": 0.5, "until": 0.2}}, "the window is empty"),
        ({"relearn": -1}, "expected a finite number >= 0"),
        ({"relearn": float("nan")}, "expected a finite number >= 0"),
    ],
)
def test_a_wrong_weight_is_named(spec, text):
    with pytest.raises(ValueError, match=text):
        weights(**spec)


def test_a_term_without_a_weight_is_named():
    with pytest.raises(ValueError, match=r"no weight for \['relearn'\]; write 0 to leave a term out"):
        TermWeights({"supervised": 1.0, "consistency": 1.0}, TERMS)


def test_poly_decay_in_closed_form():
    assert [PolyDecay(0.9)(at(s)) for s in (0, 50, 99)] == pytest.approx([1, 0.5**0.9, 0.01**0.9])


def test_poly_decay_by_epoch_changes_between_epochs_only():
    by_epoch = PolyDecay(0.9, by="epoch")
    assert {by_epoch(at(s)) for s in range(10)} == {1.0}
    assert by_epoch(at(10)) == pytest.approx(0.9**0.9)


def test_warm_up_is_linear_and_then_over():
    assert [PolyDecay(0.0, warmup=0.1)(at(s)) for s in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


def test_milestones_multiply():
    rate = Milestones([0.15, 0.35], gamma=0.1)
    assert [rate(at(s)) for s in (0, 14, 15, 35)] == pytest.approx([1, 1, 0.1, 0.01])


def test_milestones_give_way_to_the_rate_of_a_second_stage():
    rate = Milestones([0.15, 0.7], gamma=0.1, restart=0.5, restart_with=["relearn"])
    w = weights(relearn={"value": 1.0, "from": 0.63})
    assert [rate(at(s, w=w)) for s in (14, 62, 63, 70, 99)] == pytest.approx([1, 0.1, 0.5, 0.5, 0.5])
    assert [rate(at(s, w=weights())) for s in (62, 63, 70)] == pytest.approx([0.1, 0.1, 0.01]), "it never begins"
    control = Milestones([0.15, 0.7], gamma=0.1, restart=0.5, restart_with=["relearn"], restart_at=0.63)
    assert [control(at(s, w=weights())) for s in (14, 62, 63, 99)] == pytest.approx([1, 0.1, 0.5, 0.5])


def test_milestones_go_on_in_a_second_stage_that_has_no_rate_of_its_own():
    rate = Milestones([0.15, 0.7], gamma=0.1, restart=None, restart_with=["relearn"])
    w = weights(relearn={"value": 1.0, "from": 0.63})
    assert [rate(at(s, w=w)) for s in (62, 63, 70)] == pytest.approx([0.1, 0.1, 0.01])


def test_poly_decay_refuses_an_unknown_unit():
    with pytest.raises(ValueError, match="by is 'step' or 'epoch', got 'batch'"):
        PolyDecay(by="batch")
