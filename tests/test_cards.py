"""What is known of the pretrained bundles: cards are judged, weights are those of their cards, runs become cards."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from conftest import BUNDLES, ROOT, TINY, default_task, known
from monai.bundle import ConfigParser
from small_card import content, networks

from custom.cohort.intensities import FILE
from distribution import cards
from distribution.adopt import adopt, recommend
from distribution.cards import MAX_FILE, MAX_TOTAL, CardError, card, read, recommended, verify
from distribution.list import details, overview
from distribution.packing import digest

ZEROS = "0" * 64
PRETRAINED = cards.cards()
each_card = pytest.mark.parametrize("one", PRETRAINED, ids=lambda one: one.name)


def write(folder, place="phantom_2d_supervised", **changes):
    """A card beside a file of weights of four bytes."""
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / "model.pt").write_bytes(b"four")
    known = {**content(place, "supervised", "phantom_2d"), "weights": {"model.pt": digest(folder / place / "model.pt")}}
    (folder / place / "card.yaml").write_text(
        yaml.safe_dump({k: v for k, v in (known | changes).items() if v is not None})
    )
    return folder / place / "card.yaml"


# cards


def test_a_card_is_read_as_it_is_written(tmp_path):
    found = read(write(tmp_path, version="1.20.3"))
    assert (found.release, found.dice("validation"), found.dice("test")) == ("phantom_2d_supervised_v1.20.3", 0.7, 0.75)
    assert found.files == [tmp_path / "phantom_2d_supervised/model.pt"]
    verify(found)


def test_weights_of_a_bundle_lie_in_the_repository(tmp_path):
    assert read(write(tmp_path, models="bundles/supervised/models")).models == ROOT / "bundles/supervised/models"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"training": None}, "training is missing"),
        ({"licence": "MIT"}, "licence: unknown"),
        ({"recomended": True}, "recomended: unknown (did you mean 'recommended'?)"),
        ({"method": "mean_teachr"}, "method 'mean_teachr' (did you mean 'mean_teacher'?): expected one of"),
        ({"task": "hipocampus"}, "task 'hipocampus' (did you mean 'hippocampus'?): expected one of"),
        ({"name": "other"}, "name 'other' is not that of its folder, 'phantom_2d_supervised'"),
        ({"version": "0.1"}, "version '0.1': expected three numbers as in 0.1.0"),
        ({"weights": {"student.pt": ZEROS}}, "weights: there is no model.pt"),
        ({"weights": {"model.pt": "3f"}}, "weights: model.pt: '3f' is not a SHA-256"),
        ({"weights": {"model.pt": ZEROS, "../x.pt": ZEROS}}, "weights: '../x.pt' is not the name of a file of weights"),
        ({"recommended": 1}, "recommended: expected bool, found 1"),
        ({"intended_use": " "}, "intended_use is empty"),
        ({"training": {"commit": "main"}}, "training: commit 'main': expected 40 hexadecimal digits"),
        ({"data": {"labelled": True}}, "data: labelled: expected int, found True"),
    ],
)
def test_a_wrong_card_says_what_is_wrong(tmp_path, changes, text):
    with pytest.raises(CardError, match=re.escape(text)):
        read(write(tmp_path, **changes))


def test_all_faults_of_a_card_come_at_once(tmp_path):
    with pytest.raises(CardError, match=r"(?s)card.yaml:\n  version .*\n  weights: there is no model.pt"):
        read(write(tmp_path, version="1", weights={}))


def test_a_card_that_is_no_yaml(tmp_path):
    write(tmp_path).write_text("name: [")
    with pytest.raises(CardError, match="cannot be read"):
        card("phantom_2d_supervised", tmp_path)


def test_an_unknown_name_names_the_nearest(tmp_path):
    write(tmp_path)
    with pytest.raises(CardError, match=re.escape("'phantom_supervised' (did you mean 'phantom_2d_supervised'?)")):
        card("phantom_supervised", tmp_path)


# weights


@pytest.mark.fault("9", "a file of the repository's weights that is not the card's")
def test_weights_with_another_hash_are_refused(tmp_path):
    found = read(write(tmp_path))
    found.files[0].write_bytes(b"five!")
    expected = f"model.pt: sha256 is {digest(found.files[0])}, expected {found.weights['model.pt']}. Nothing was built."
    with pytest.raises(CardError, match=re.escape(expected)):
        verify(found)


def test_weights_that_are_missing_are_refused(tmp_path):
    found = read(write(tmp_path))
    found.files[0].unlink()
    with pytest.raises(CardError, match=r"model\.pt is missing\. Nothing was built\."):
        verify(found)


def test_a_file_too_large_for_the_repository_is_refused_with_the_remedy(tmp_path):
    found = read(write(tmp_path))
    with found.files[0].open("ab") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(CardError, match=r"has 25\.0 MB, .* at most 25 MB\. Host it elsewhere .* large_files\.yml"):
        verify(found)


# which one serves by default


def scored(folder, **validation):
    for method, dice in validation.items():
        figures = {"validation": {"dice": {"mean": dice}}, "test": {"dice": {"mean": 1 - dice}}}
        write(folder, f"phantom_2d_{method}", method=method, figures=figures)


def test_the_best_in_validation_is_recommended(tmp_path):
    scored(tmp_path, supervised=0.8, low_confidence=0.9, mean_teacher=0.7)
    assert recommend("phantom_2d", tmp_path).name == "phantom_2d_low_confidence"
    assert recommended("phantom_2d", tmp_path).name == "phantom_2d_low_confidence"
    scored(tmp_path, supervised=0.95)
    assert recommend("phantom_2d", tmp_path) == recommended("phantom_2d", tmp_path)
    assert recommended("phantom_2d", tmp_path).method == "supervised"


def test_of_equal_ones_the_simplest_is_recommended(tmp_path):
    scored(tmp_path, task_affinity=0.8004, mean_teacher=0.7999, low_confidence=0.8001)
    assert recommend("phantom_2d", tmp_path).method == "mean_teacher"


def test_without_a_figure_in_validation_nothing_is_recommended(tmp_path):
    write(tmp_path, figures={"validation": {}, "test": {}})
    with pytest.raises(CardError, match="expected cards with a Dice in validation"):
        recommend("phantom_2d", tmp_path)
    with pytest.raises(
        CardError, match=r"found none\. Choose one: python -m distribution\.adopt --recommend phantom_2d"
    ):
        recommended("phantom_2d", tmp_path)


# the list


def test_the_list_shows_figures_and_the_details_hashes_and_commands(tmp_path):
    one = read(write(tmp_path, recommended=True))
    row = next(line for line in overview(tmp_path).splitlines() if "phantom_2d_supervised *" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "phantom_2d_supervised *", "0.1.0", "4", "0.700", "0.750 (0.700 to 0.800)", "3.0 (2.0 to 4.0) mm", "0.0", "Apache-2.0"
    ]  # fmt: skip
    assert all(text in details(one) for text in (one.weights["model.pt"], "commit " + "0" * 40, "run training"))


# a run becomes a card


@pytest.fixture
def finished(run_bundle):
    """A tiny run, evaluated on the test part."""
    out = run_bundle(ROOT / "bundles/supervised", **TINY, seed=3)
    run_bundle(ROOT / "bundles/supervised", "run", ["configs/train.yaml", "configs/evaluate.yaml"], **TINY, seed=3)
    return out


def test_a_finished_run_becomes_a_card(finished, tmp_path):
    found = adopt(finished, "phantom_2d_supervised", tmp_path / "pretrained", commit="1" * 40, machine="this one")
    assert {name: digest(finished / "bundle/models" / name) for name in ("model.pt", "network.pt")} == found.weights
    changed = {k: v for k, v in known(ROOT / "bundles/supervised", TINY).items() if k != "workers"}
    assert found.overrides == {**changed, "seed": 3}
    assert (found.training["seed"], found.training["machine"], found.training["commit"]) == (3, "this one", "1" * 40)
    assert "--widths '[4, 8]'" in found.training["commands"][1]
    assert [found.data[part] for part in ("labelled", "unlabelled", "validation", "test")] == [2, 3, 2, 3]
    summary = json.loads((finished / "evaluation/test/model.json").read_text(encoding="utf-8"))["metrics"]["dice_mean"]
    assert found.figures["test"]["dice"]["low"] == pytest.approx(summary["low"], abs=1e-4)
    best = json.loads((finished / "bundle/run.json").read_text(encoding="utf-8"))["best in validation"]["score"]
    assert found.dice("validation") == pytest.approx(best, abs=1e-4)
    assert str(tmp_path) not in found.path.read_text(encoding="utf-8"), "no path of this machine"

    with pytest.raises(CardError, match=r"was trained by scripts\.methods\.Supervised, the name says mean_teacher"):
        adopt(finished, "phantom_2d_mean_teacher", tmp_path / "pretrained")
    (finished / "evaluation/test/network.json").unlink()
    with pytest.raises(CardError, match=r"network\.json does not exist\. Evaluate the run: configs/evaluate\.yaml"):
        adopt(finished, "phantom_2d_supervised", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_run_that_is_not_finished_and_a_name_that_names_nothing(tmp_path):
    with pytest.raises(CardError, match="'liver_supervised' is not a TASK_METHOD: tasks are"):
        adopt(tmp_path, "liver_supervised", tmp_path)
    with pytest.raises(CardError, match=r"train\.yaml does not exist\. Name the output_dir of a run"):
        adopt(tmp_path, "phantom_2d_supervised", tmp_path)


# the repository's own


@each_card
def test_pretrained_weights_are_those_of_the_card(one):
    verify(one)
    for path in one.files:
        state = torch.load(path, map_location="cpu", weights_only=True)
        assert all(isinstance(value, torch.Tensor) and torch.isfinite(value).all() for value in state.values())


@each_card
def test_pretrained_weights_know_the_intensities_of_their_training(one):
    record = json.loads((one.models / FILE).read_text(encoding="utf-8"))
    config = ConfigParser({})
    config.read_config(
        [str(ROOT / f"bundles/{one.method}/configs/train.yaml"), str(ROOT / f"custom/tasks/{one.task}.yaml")]
    )
    assert list(record) == config["channels"]


@each_card
def test_pretrained_bundles_are_measured(one):
    assert one.dice("validation") is not None
    test = one.figures["test"]
    assert {"mean", "low", "high"} <= test["dice"].keys()
    if test["missed"] < test["cases"]:  # where every case lacks a class there is no mean distance
        assert {"mean", "low", "high"} <= test["hd95"].keys()
    assert test["calibration"].get("ece", 0) >= 0  # without it: not measured


@each_card
def test_pretrained_weights_fit_their_network(one):
    fitting = networks(one.method, one.task, one.overrides)
    known = one.weights.keys() & fitting.keys()  # not every network that serves is shipped
    assert "model.pt" in known
    for name in known:
        network, state = fitting[name], torch.load(one.models / name, map_location="cpu", weights_only=True)
        assert network.load_state_dict(state, strict=True)


RATES = ("learning_rate", "milestones", "relearn_learning_rate")  # they had their own, as their bundles have now
OLD_FORM = [  # trained when bundles had their published forms alone, with statistics as trained
    one
    for one in PRETRAINED
    if one.overrides.get("statistics") == {"batches": 0}
    and (ROOT / f"bundles/{one.method}/configs/published.yaml").is_file()
]


@pytest.mark.parametrize("one", OLD_FORM, ids=lambda one: one.name)
def test_a_card_of_the_published_form_names_every_setting_of_it(one):
    """What is not named is the default of today: a default that changed since would describe another training."""
    published = yaml.safe_load((ROOT / f"bundles/{one.method}/configs/published.yaml").read_text(encoding="utf-8"))
    assert set(published) <= set(one.overrides)
    for key in published:
        assert key in RATES or one.overrides[key] == published[key]


def test_there_are_cards_of_the_published_form():
    assert {one.method for one in OLD_FORM} >= {"coarse_refined", "low_confidence", "task_affinity"}


def test_every_file_of_weights_has_a_card_and_all_are_small_enough():
    files = [*ROOT.glob("bundles/*/models/*.pt"), *ROOT.glob("distribution/pretrained/*/*.pt")]
    assert sorted(files) == sorted({path for one in PRETRAINED for path in one.files})
    assert sum(path.stat().st_size for path in files) <= MAX_TOTAL


def test_of_each_task_one_bundle_is_recommended():
    for task in {one.task for one in PRETRAINED}:
        assert recommended(task).task == task


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda p: p.name)
def test_weights_in_a_bundle_are_of_the_numbers_that_stand_there(bundle):
    """A bundle of the repository serves with them: nothing that shapes network or input may be overridden."""
    for one in PRETRAINED:
        if one.models == bundle / "models":
            shapes = set(yaml.safe_load((bundle / "configs/inference.yaml").read_text(encoding="utf-8")))
            assert (one.task, shapes & set(one.overrides)) == (default_task(bundle).stem, set())
