"""Which scan next: by what the networks do not know, kept by version and file, within a budget; before that, by spread."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from annotate.strategies import CACHE, UNTRAINED, Informative, Repeatable, Spread
from custom.networks.probabilities import softmax

UNSURE = {"a": 0.0, "b": 3.0, "c": 1.0, "d": 2.0, "e": 0.5}  # how many of 4 voxels the network is unsure of
REQUEST = {"strategy": "informative"}


class Datastore:
    """Scans of a folder, as MONAI Label's datastore answers for them."""

    def __init__(self, folder: Path, names: str, labelled: str = "") -> None:
        self.folder, self.names, self.labelled = folder, list(names), set(labelled)
        self.known: dict[str, dict] = {name: {"ts": 1} for name in names}
        for number, name in enumerate(names):
            self.write(name, number)

    def write(self, name: str, value: float) -> None:
        """A picture of a bright square whose size tells the value."""
        import nibabel

        picture = np.zeros((16, 16, 1), np.float32)
        picture[: 2 + int(value * 3), :4] = 1
        nibabel.save(nibabel.Nifti1Image(picture, np.eye(4)), self.folder / f"{name}.nii.gz")

    def get_unlabeled_images(self):
        return [name for name in self.names if name not in self.labelled]

    def get_labeled_images(self):
        return [name for name in self.names if name in self.labelled]

    def get_image_uri(self, name):
        return str(self.folder / f"{name}.nii.gz")

    def get_image_info(self, name):
        return copy.deepcopy(self.known[name])

    def update_image_info(self, name, info):
        self.known[name].update(info)


class Served:
    """Networks that are unsure as told, and count how often they are asked."""

    def __init__(self, unsure=UNSURE, networks=("model", "student"), version="v1") -> None:
        self.unsure, self.names, self.now, self.asked = unsure, networks, version, []

    def networks(self):
        return {name: Path(f"{name}.pt") for name in self.names}

    def version(self):
        return self.now

    def logits(self, image, weights):
        name = Path(image).name.split(".")[0]
        self.asked.append((name, weights.name))
        share = torch.full((4,), 9.0)  # sure foreground
        share[: int(self.unsure[name])] = 0.1
        return torch.stack([torch.zeros(4), share])

    def probabilities(self, weights):
        return softmax


@pytest.fixture
def store(tmp_path):
    return Datastore(tmp_path, "abcde", labelled="a")


# ----------------------------------------------------------------------------------------------------------- informative
def test_the_scan_that_the_networks_know_least_comes_first(store):
    found = Informative(Served(), few=1)(REQUEST, store)
    assert found["id"] == "b"
    assert found["score"] == pytest.approx((0 + 3 / 4) / 2)  # they agree, and are unsure of 3 of 4 voxels
    assert found["reason"] == "score 0.375, the highest of 4 of 4 unlabelled scans"


def test_labelled_one_by_one_they_come_in_the_order_of_their_scores(store):
    strategy, order = Informative(Served(), few=1), []
    while found := strategy(REQUEST, store):
        order.append(found["id"])
        store.labelled.add(found["id"])
    assert order == ["b", "d", "c", "e"]


def test_disagreement_counts(store):
    class Disagreeing(Served):
        def logits(self, image, weights):
            found = super().logits(image, weights)
            return -found if weights.name == "student.pt" and Path(image).name.startswith("e") else found

    assert Informative(Disagreeing(), few=1)(REQUEST, store)["id"] == "e"


def test_of_several_networks_the_one_that_the_served_average_does_not_follow_is_asked(store):
    served = Served(networks=("first", "model", "second"))  # as cps writes them
    Informative(served, few=1)(REQUEST, store)
    assert {weights for _, weights in served.asked} == {"model.pt", "second.pt"}


def test_a_networks_own_probabilities_say_what_it_is_unsure_of(store):
    class Sigmoids(Served):
        def probabilities(self, weights):
            assert weights.name == "model.pt"  # the first network's confidence counts
            return torch.sigmoid

    both = torch.full((2, 4), 3.0)  # background and foreground: 1/2 each by softmax, 0.95 each by sigmoids
    for served, score in ((Served(version="v1"), 0.5), (Sigmoids(version="v2"), 0.0)):
        served.logits = lambda image, weights: both
        assert Informative(served, few=1)(REQUEST, store)["score"] == score


def test_a_score_that_was_kept_by_an_earlier_version_is_made_anew(store):
    served = Served()
    Informative(served, few=1)(REQUEST, store)
    for name in "bcde":
        del store.known[name][CACHE]["scored_by"]
    served.asked = []
    Informative(served, few=1)(REQUEST, store)
    assert len(served.asked) == 8


def test_one_network_alone_ranks_by_its_confidence(store):
    assert Informative(Served(networks=("model",)), few=1)(REQUEST, store)["id"] == "b"


def test_equal_scores_go_by_name(store):
    assert Informative(Served(dict.fromkeys("abcde", 1.0)), few=1)(REQUEST, store)["id"] == "b"


def test_a_score_is_computed_once(store):
    served = Served()
    Informative(served, few=1)(REQUEST, store)
    asked = list(served.asked)
    assert sorted(asked) == [(name, weights) for name in "bcde" for weights in ("model.pt", "student.pt")]
    Informative(served, few=1)(REQUEST, store)  # another server on the same study
    assert served.asked == asked


def test_new_weights_make_every_score_anew(store):
    served = Served()
    strategy = Informative(served, few=1)
    strategy(REQUEST, store)
    served.now, served.unsure, served.asked = "v2", {**UNSURE, "e": 4.0}, []
    assert strategy(REQUEST, store)["id"] == "e"
    assert len(served.asked) == 8


@pytest.mark.fault("20", "a scan that was overwritten after it was scored")
def test_an_overwritten_scan_is_scored_anew(store):
    served = Served()
    strategy = Informative(served, few=1)
    strategy(REQUEST, store)
    served.asked = []
    store.write("c", 2.0)
    os.utime(store.get_image_uri("c"), ns=(1, 1))
    strategy(REQUEST, store)
    assert served.asked == [("c", "model.pt"), ("c", "student.pt")]


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_request_scores_no_more_than_its_budget_and_answers_with_the_best_so_far(store, budget):
    served = Served()
    strategy = Informative(served, budget=budget, few=1)
    found = strategy(REQUEST, store)
    scored = {name for name, _ in served.asked}
    assert len(scored) == budget
    assert found["id"] == max(scored, key=UNSURE.get)
    for _ in range(4):
        found = strategy(REQUEST, store)
    assert found["id"] == "b"
    assert len(served.asked) == 8


def test_out_of_time_one_scan_is_scored_all_the_same(store):
    served = Served()
    Informative(served, seconds=-1, few=1)(REQUEST, store)
    assert len({name for name, _ in served.asked}) == 1


def test_a_scan_that_cannot_be_scored_is_passed_over_and_not_tried_again(store, caplog):
    class Failing(Served):
        def logits(self, image, weights):
            if Path(image).name.startswith("b"):
                self.asked.append(("b", weights.name))
                raise ValueError("b.nii.gz is truncated")
            return super().logits(image, weights)

    served = Failing()
    assert Informative(served, few=1)(REQUEST, store)["id"] == "d"
    assert Informative(served, few=1)(REQUEST, store)["id"] == "d"
    assert served.asked.count(("b", "model.pt")) == 1
    assert "b has no score: b.nii.gz is truncated" in caplog.messages


@pytest.mark.parametrize("case", ["no weights", "no label", "no scan can be scored"])
def test_before_anything_is_known_scans_are_spread(store, case):
    served = Served(version=UNTRAINED if case == "no weights" else "v1")
    if case == "no label":
        store.labelled.clear()
    if case == "no scan can be scored":
        served.unsure = {}
    found = Informative(served, few=1)(REQUEST, store)
    assert found == Spread()(REQUEST, store)
    assert case == "no scan can be scored" or served.asked == []


def test_with_few_labels_the_networks_are_not_asked(store):
    served = Served()
    assert Informative(served, few=2)(REQUEST, store) == Spread()(REQUEST, store)
    assert served.asked == []
    store.labelled.add("d")
    assert "score" in Informative(served, few=2)(REQUEST, store)


@pytest.mark.parametrize("strategy", [Informative(Served(), few=1), Spread()])
def test_all_labelled_there_is_no_next_scan(store, strategy):
    store.labelled.update("abcde")
    assert strategy(REQUEST, store) is None


# ---------------------------------------------------------------------------------------------------------------- spread
def test_the_first_scan_is_the_most_ordinary_and_each_comes_once(tmp_path):
    store, order = Datastore(tmp_path, "abcde"), []
    while found := Spread()(REQUEST, store):
        order.append(found["id"])
        store.labelled.add(found["id"])
    assert order[0] == "c"
    assert order[1] in "abde"
    assert sorted(order) == list("abcde")


def test_the_order_is_the_same_each_time(tmp_path):
    first = [Spread()(REQUEST, Datastore(tmp_path, "abcde"))["id"] for _ in range(2)]
    assert first[0] == first[1]


def test_scans_that_were_read_are_not_read_again_until_they_change(store, monkeypatch):
    import annotate.strategies as module

    read, real = [], module.open_scan
    monkeypatch.setattr(module, "open_scan", lambda path, limit: read.append(path.name) or real(path, limit))
    strategy = Spread()
    strategy(REQUEST, store)
    assert sorted(read) == [f"{name}.nii.gz" for name in "abcde"]
    store.write("d", 9)
    strategy(REQUEST, store)
    assert read[5:] == ["d.nii.gz"]


@pytest.mark.parametrize("limits", [{"budget": 1}, {"seconds": -1}])
def test_a_request_reads_no_more_than_its_budget_and_always_one_candidate(store, monkeypatch, limits):
    import annotate.strategies as module

    read, real = [], module.open_scan
    monkeypatch.setattr(module, "open_scan", lambda path, limit: read.append(path.name) or real(path, limit))
    strategy = Spread(**limits)
    found = strategy(REQUEST, store)
    assert read == ["a.nii.gz", f"{found['id']}.nii.gz"]
    assert found["reason"] == "typical of what the 1 labelled are not, among 1 of 4 unlabelled scans"
    strategy(REQUEST, store)
    assert len(read) == 3


@pytest.mark.fault("5a", "a truncated scan among those to be annotated")
def test_a_scan_that_cannot_be_read_is_passed_over(store, caplog):
    path = Path(store.get_image_uri("e"))
    path.write_bytes(path.read_bytes()[:60])
    assert Spread()(REQUEST, store)["id"] in "bcd"
    assert "e is passed over: e.nii.gz is truncated." in caplog.messages


def test_where_no_scan_can_be_read_the_first_comes(store):
    for name in "abcde":
        Path(store.get_image_uri(name)).write_bytes(b"")
    assert Spread()(REQUEST, store) == {"id": "b", "reason": "no scan could be read"}


# ---------------------------------------------------------------------------------------------------------------- random
def test_random_answers_twice_within_a_second(store):
    def stock(request, datastore):
        raise ValueError("Total of weights must be greater than zero")

    assert Repeatable(stock)(REQUEST, store)["id"] in "bcde"
    assert Repeatable(lambda request, datastore: {"id": "c"})(REQUEST, store) == {"id": "c"}
