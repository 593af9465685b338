"""The promises of custom/run/config.py: what is kept, what a resumed run may not change, what a run says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from run_config import BUNDLE, config_of

from custom.run import checkpoint
from custom.run.config import RunConfig
from custom.run.output import Output

# what a resumed run may not change


def changes(**overrides: Any) -> list[str]:
    return checkpoint.differences(config_of().config, config_of(**overrides).config, RunConfig.FREE)


@pytest.mark.fault("2c", "one key changed")
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"widths": [16, 64]}, "written with widths=[16, 32, 64, 128], this config has [16, 64]"),
        ({"seed": 1}, "written with seed=0, this config has 1"),
        ({"steps": 900}, "written with steps=600, this config has 900"),
        ({"clip": 1.0}, "written with clip=None, this config has 1.0"),
        ({"weights::consistency::ramp": 0.2}, "written with weights::consistency::ramp=1.0, this config has 0.2"),
        ({"train::optimizer::nesterov": False}, "written with train::optimizer::nesterov=True, this config has False"),
        ({"inferer::progress": True}, "written with inferer::progress absent, this config has True"),
        ({"train::labelled::foreground": "$1/3"},
         "written with train::labelled::foreground='@foreground', this config has '$1/3'"),
    ],
)  # fmt: skip
def test_what_can_change_the_result_is_named_with_both_values(change, line):
    assert changes(**change) == [line]


@pytest.mark.fault("2c", "folders, device, workers, tracking changed")
@pytest.mark.parametrize(
    "change",
    [{"output_dir": "/elsewhere"}, {"bundle_root": "/elsewhere"}, {"dataset_dir": "/elsewhere"},
     {"data_list": "moved.json"}, {"resume": True}, {"workers": 0}, {"device": "$torch.device('cuda:1')"}, {"mlflow_uri": "http://x"},
     {"initial_weights": "a.pt"}, {"train::handlers": []}, {"train::dataset::data": [{"image": "a"}]},
     {"train::unlabelled_dataset::data": []}, {"validate::dataset::data": []}, {"inferer::sw_batch_size": 1},
     {"run_name": "x", "tracking_uri": "y", "is_not_rank0": True, "experiment_name": "z", "save_execute_config": None}],
    ids=lambda change: ", ".join(change),
)  # fmt: skip
def test_what_cannot_change_the_result_may_change(change):
    assert changes(**change) == []


def test_a_checkpoint_gives_the_config_back_as_it_was(tmp_path):
    """Only plain types: it is read with weights_only; a path that MONAI Label gave is its text."""
    mine = {"path": Path("/a"), "shape": (1, 2), 3: torch.device("cpu"), "on": True, "none": None}
    config = config_of(mine=mine).config
    assert config["mine"] == {"path": "/a", "shape": [1, 2], 3: "cpu", "on": True, "none": None}
    checkpoint.save({"config": config}, tmp_path, 1)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[0]["config"] == config


def test_a_config_is_a_copy_that_later_changes_do_not_reach():
    parser = ConfigParser({"a": {"b": [1]}})
    config = RunConfig(parser)
    parser["a::b"] = [2]
    assert config.config == {"a": {"b": [1]}}


# what a run says


def lines_of(*overlays: Path, **overrides: Any) -> list[str]:
    first, *lines = config_of(*overlays, **overrides).summary()
    assert first == f"Settings that differ from {BUNDLE / 'configs/train.yaml'}:"
    return [line for line in lines if not line.startswith("  bundle_root = ")]  # of config_of


def test_an_overlay_of_the_bundle_s_own_is_named():
    published = BUNDLE / "configs/published.yaml"
    first = config_of(published, steps=3).summary()[0]
    assert first == f"Settings that differ from {BUNDLE / 'configs/train.yaml'} and {published}:"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ({"steps": 2000}, "steps = 2000 (bundle: 600)"),
        ({"output_dir": "/a"}, "output_dir = /a (bundle: $@bundle_root + '/eval')"),
        ({"clip": 1.0}, "clip = 1.0 (bundle: null)"),
        ({"resume": True}, "resume = true (bundle: false)"),
        ({"patch": [32, 32]}, "patch = [32, 32] (bundle: [64, 64])"),
        ({"mlflow_uri": "http://x"}, "mlflow_uri = http://x (bundle: '')"),
        ({"weights::consistency::ramp": 0.2}, "weights::consistency::ramp = 0.2 (bundle: 1.0)"),
        ({"weights::consistency::from": 0.5}, "weights::consistency::from = 0.5 (bundle: not set)"),
        ({"train::augmentation::0::degrees": 20}, "train::augmentation::0::degrees = 20 (bundle: @rotate_degrees)"),
        ({"inferer": {"_target_": "SimpleInferer"}}, "inferer = a SimpleInferer (bundle: a SliceInferer)"),
        ({"train::dataset::data": [{"image": "a" * 99}] * 3}, "train::dataset::data = 3 items (bundle: $@data['labelled'])"),
    ],
)  # fmt: skip
def test_a_setting_that_differs_has_a_line_with_both_values(override, line):
    assert lines_of(**override) == [f"  {line}"]


def test_what_belongs_to_the_process_or_to_a_tracker_is_no_setting(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("run: [$print(1)]\nmine: 3\n")
    assert lines_of(overlay, run_name="x", finalize=[]) == ["  mine = 3 (bundle: not set)"]


def test_a_run_of_the_bundle_as_it_is_says_so_in_one_line(bundle_cwd):
    bundle_cwd(BUNDLE)
    files = ["configs/train.yaml", "configs/evaluate.yaml"]  # an overlay of the bundle's own is the bundle's own
    config = RunConfig(ConfigParser(ConfigParser.load_config_files(files)), files)
    assert config.summary() == ["Settings: all as in configs/train.yaml and configs/evaluate.yaml."]


@pytest.mark.parametrize(
    ("steps", "each", "more", "line"),
    [(4, 3, {}, "This run takes 6 steps, not 4: 2 whole epochs of 3."), (6, 3, {}, ""),
     (600, 30, {"train::trainer::max_epochs": 2}, "This run takes 60 steps, not 600: 2 whole epochs of 30.")],
)  # fmt: skip
def test_a_length_that_is_no_whole_epochs_is_told(steps, each, more, line):
    assert config_of(steps=steps, epoch_steps=each, **more).rounding() == line


def test_the_log_of_a_run_says_so_at_its_start(tmp_path, caplog):
    with caplog.at_level("INFO"):
        Output(tmp_path, config_of(steps=4, epoch_steps=3)).begin()
    assert "This run takes 6 steps, not 4: 2 whole epochs of 3." in caplog.messages


def test_an_override_that_no_part_of_the_run_refers_to_is_said_to_change_nothing(caplog):
    """Pictures are not resampled by a spacing; LGG's voxels are kept as they are."""
    content = {"spacing_mm": [2, 2], "dropout": [0.0], "network": {"rates": "@dropout"}}
    config = RunConfig(ConfigParser(content), overrides=("spacing_mm", "dropout"))
    assert config.idle_overrides() == ["spacing_mm"]
    assert RunConfig(ConfigParser({**content, "read": "@spacing_mm"}), overrides=("spacing_mm",)).idle_overrides() == []
    assert RunConfig(ConfigParser(content)).idle_overrides() == [], "a task may hold it for other bundles"
    with caplog.at_level("WARNING"):
        config.start()
    assert "--spacing_mm changes nothing: no part of this run refers to it." in caplog.messages


def test_a_config_without_a_training_has_no_length():
    assert RunConfig(ConfigParser({"steps": 4, "epoch_steps": 3})).rounding() == ""
    assert RunConfig(ConfigParser({})).rounding() == ""


def test_a_workflow_made_by_hand_has_no_files_to_compare_with():
    assert RunConfig(ConfigParser({"a": 1})).summary() == []


def test_settings_are_plain_and_resolved():
    settings = config_of(steps=7, learning_rate=1e-5).settings()
    assert settings["output_dir"] == f"{BUNDLE}/eval"
    assert (settings["steps"], settings["learning_rate"], settings["clip"]) == (7, 1e-5, None)
    assert settings["weights"] == {"supervised": 1.0, "consistency": {"ramp": 1.0, "until": 0.4}}
    for component in "network train validate inferer preprocessing run training config device _meta_".split():
        assert component not in settings


def test_a_filled_config_has_numbers_where_settings_are_referred_to():
    config = RunConfig(
        ConfigParser({"a": 3, "b": {"_target_": "x.Y", "lr": "@a", "net": "@b", "all": ["@a", "$@a + 1"]}})
    )
    assert config.filled() == {"a": 3, "b": {"_target_": "x.Y", "lr": 3, "net": "@b", "all": [3, "$@a + 1"]}}


@pytest.mark.parametrize(("device", "asked"), [("cuda", [True]), ("cuda:1", [True]), ("cpu", [])])
def test_on_a_gpu_pytorch_decides_what_repeats(monkeypatch, device, asked):
    """What has a deterministic form takes it; the rest is a warning, not an error."""
    calls = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda mode, *, warn_only: calls.append(mode and warn_only)
    )
    with torch.random.fork_rng():
        RunConfig(ConfigParser({"seed": 0, "device": f"$torch.device('{device}')"})).start()
    assert calls == asked


def test_nothing_is_built_to_find_the_settings():
    broken = {"b": {"_target_": "no.such.Thing"}, "c": "$1 / 0", "d": ["@b"], "e": {"f": "$1 / 0"}}
    assert RunConfig(ConfigParser({"a": 1, **broken})).settings() == {"a": 1}
