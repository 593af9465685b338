"""What the networks say of a scan, in closed form; and the order in which scans cover their set."""

import math

import pytest
import torch
from torch.testing import assert_close

from annotate.ranking import disagreement, features, low_confidence, score, spread


def logits(probabilities):
    """Logits ``(K, V)`` of voxels, a row of class probabilities each."""
    return torch.tensor(probabilities, dtype=torch.float64).log().T


SURE, UNSURE = [0.1, 0.9], [0.4, 0.6]  # foreground
BACKGROUND, DOUBTED = [0.9, 0.1], [0.6, 0.4]


# ---------------------------------------------------------------------------------------------------------- disagreement
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([SURE, SURE, BACKGROUND], [SURE, SURE, BACKGROUND], 0),
        ([SURE, SURE, BACKGROUND], [SURE, BACKGROUND, BACKGROUND], 1 / 2),  # one of the two that either calls
        ([SURE, BACKGROUND, BACKGROUND], [BACKGROUND, SURE, BACKGROUND], 1),
        ([BACKGROUND] * 3, [BACKGROUND] * 3, 0),  # both find nothing: they agree, and 0 is not 0 / 0
        ([BACKGROUND] * 3, [SURE, BACKGROUND, BACKGROUND], 1),
    ],
)
def test_disagreement_in_closed_form(first, second, expected):
    assert_close(float(disagreement(logits(first), logits(second))), float(expected))


def test_two_foreground_classes_disagree_like_foreground_and_background():
    first, second = logits([[0.1, 0.8, 0.1]] * 4), logits([[0.1, 0.8, 0.1]] * 3 + [[0.1, 0.1, 0.8]])
    assert_close(float(disagreement(first, second)), 1 / 4)


def test_disagreement_is_symmetric_and_between_0_and_1():
    torch.manual_seed(0)
    for _ in range(20):
        first, second = torch.randn(2, 3, 4, 5, 6)
        assert disagreement(first, second) == disagreement(second, first)
        assert 0 <= disagreement(first, second) <= 1


def test_one_foreground_class_gives_the_jaccard_distance():
    torch.manual_seed(0)
    first, second = torch.randn(2, 2, 50)
    a, b = first.argmax(0).bool(), second.argmax(0).bool()
    assert_close(float(disagreement(first, second)), 1 - float((a & b).sum() / (a | b).sum()))


# -------------------------------------------------------------------------------------------------------- low confidence
@pytest.mark.parametrize(
    ("voxels", "expected"),
    [
        ([SURE, SURE, SURE, UNSURE], 1 / 4),
        ([SURE, UNSURE, BACKGROUND, BACKGROUND], 1 / 2),  # sure background does not count, however much there is
        ([SURE, DOUBTED, BACKGROUND], 1 / 2),  # background that may be foreground does
        ([BACKGROUND, BACKGROUND], 0),  # sure that there is nothing
        ([DOUBTED, DOUBTED], 1),  # finds nothing because it is sure of nothing
    ],
)
def test_low_confidence_in_closed_form(voxels, expected):
    assert_close(float(low_confidence(logits(voxels))), float(expected))


def test_a_network_trained_with_sigmoids_is_sure_by_them():
    both = torch.full((2, 3), 3.0)  # background and foreground: 1/2 each by softmax, 0.95 each by sigmoids
    assert_close(float(low_confidence(both)), 1.0)
    assert_close(float(low_confidence(both, probabilities=torch.sigmoid)), 0.0)
    assert score([both, both], probabilities=torch.sigmoid) == 0


def test_a_voxel_at_the_threshold_is_sure():
    even = torch.zeros(2, 1)  # probabilities 1/2 exactly
    assert low_confidence(even, threshold=0.5) == 0
    assert low_confidence(even, threshold=math.nextafter(0.5, 1) + 1e-6) == 1


def test_a_higher_threshold_never_lowers_the_share():
    torch.manual_seed(0)
    shares = [float(low_confidence(torch.randn(3, 8, 8, generator=torch.manual_seed(1)), t / 10)) for t in range(11)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1


def test_the_score_is_the_mean_of_both_and_of_one_network_its_low_confidence():
    first, second = logits([SURE, SURE, SURE, UNSURE]), logits([SURE, SURE, BACKGROUND, BACKGROUND])
    assert_close(score([first, second]), (1 / 2 + 1 / 4) / 2)
    assert_close(score([first]), 1 / 4)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            lambda: disagreement(torch.zeros(2, 3), torch.zeros(2, 4)),
            r"first \(2, 3\) and second \(2, 4\) differ in shape",
        ),
        (lambda: disagreement(torch.zeros(1, 3), torch.zeros(1, 3)), r"classes need K >= 2 on axis 0, got \(1, 3\)"),
        (lambda: low_confidence(torch.zeros(1, 3)), r"classes need K >= 2 on axis 0, got \(1, 3\)"),
        (lambda: low_confidence(torch.zeros(2, 3), 1.5), r"threshold is a probability in \[0, 1\], got 1.5"),
    ],
)
def test_what_cannot_be_ranked_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()


# -------------------------------------------------------------------------------------------------------------- features
def test_features_of_a_ramp_in_closed_form():
    ramp = torch.arange(1024.0).reshape(1, 32, 32)
    found = features(ramp)
    assert_close(found[:16].square(), torch.full((16,), 1 / 16), atol=6e-3, rtol=0)  # every bin alike, ends are clipped
    rows = found[16:].reshape(8, 8)[:, 0] * 8  # from darkest to brightest
    assert_close(rows, (torch.arange(8) + 1 / 2) / 8, atol=2e-2, rtol=0)


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 20, 30), (1, 5, 6, 7), (2, 20, 18, 3)])
def test_features_have_one_length_whatever_the_scan(shape):
    found = features(torch.randn(shape, generator=torch.manual_seed(0)))
    assert found.shape == (80,)
    assert found.isfinite().all()


def test_features_do_not_depend_on_the_unit_of_intensities():
    scan = torch.randn(1, 16, 16, generator=torch.manual_seed(0))
    assert_close(features(scan * 1000 - 500), features(scan), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scan", [torch.full((1, 8, 8), 3.0), torch.full((1, 8, 8), math.nan)])
def test_a_blank_scan_has_features(scan):
    assert features(scan).isfinite().all()


def test_one_wrong_voxel_does_not_spoil_the_others():
    scan = torch.rand(1, 64, 64, generator=torch.manual_seed(0))
    spoilt = scan.clone()
    spoilt[0, 0, 0] = math.inf
    assert (features(spoilt) - features(scan)).norm() < 0.05


# ---------------------------------------------------------------------------------------------------------------- spread
LINE = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])


def test_the_first_is_the_medoid_then_what_leaves_the_least():
    # sums of distances 16, 13, 12, 13, 34; then to the nearest of {2, i} 10, 10, -, 10, 4; then 2, 2, -, 3, -
    assert spread(LINE) == [2, 4, 0, 1, 3]
    assert spread(LINE, count=2) == [2, 4]


def test_what_was_chosen_needs_no_other_to_stand_for_it():
    assert spread(LINE, chosen=[4]) == [1, 2, 0, 3]
    assert spread(LINE, chosen=[0, 4]) == [2, 1, 3]


def test_an_odd_point_waits_until_what_is_common_is_covered():
    clusters = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [12.0]])
    assert sorted(spread(clusters)[:2]) in ([1, 4], [2, 4], [1, 3], [0, 4], [3, 1])
    assert spread(clusters)[2] == 6


def test_ties_go_to_the_smaller_index():
    assert spread(torch.zeros(4, 3)) == [0, 1, 2, 3]


def test_nothing_left_is_an_empty_order():
    assert spread(LINE, chosen=range(5)) == []
    assert spread(torch.zeros(0, 3)) == []


def test_every_scan_comes_once_and_each_step_leaves_the_least():
    points = torch.rand(12, 3, generator=torch.manual_seed(0))

    def left_by(centres):
        return float(torch.cdist(points, points[centres]).amin(dim=1).sum())

    order = spread(points, chosen=[5])
    assert sorted(order) == sorted(set(range(12)) - {5})
    before = [5]
    for index in order:
        costs = {i: left_by([*before, i]) for i in range(12) if i not in before}
        assert_close(costs[index], min(costs.values()))
        before.append(index)


def test_the_first_follows_the_points_and_not_their_places():
    points = torch.rand(9, 4, generator=torch.manual_seed(3))
    mixed = torch.randperm(9, generator=torch.manual_seed(4))
    assert (
        int(mixed[spread(points[mixed])[0]]) == spread(points)[0]
    )  # two that are near each other stand for each other
