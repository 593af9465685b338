"""The promises of custom/run/overrides.py: a misspelt override is refused, through monai.bundle.run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, each_bundle
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow

from custom.cohort.data_list import list_path
from custom.files import under
from custom.run.bundle import _local_values
from custom.run.config import PROCESS, RunConfig, running
from custom.run.overrides import ConfigError, judge_files, judge_paths, restore

BUNDLE = ROOT / "bundles/mean_teacher"
KEPT: list[Any] = []  # configs that the runs below append to


@pytest.fixture
def look(run_bundle: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Run the bundle with a ``run`` that only keeps the config; returns that."""

    def go(*overlays: Path, **overrides: Any) -> Any:
        (tmp_path / "look.yaml").write_text(
            "keep: $__import__('test_overrides').KEPT.append\n"
            "run: [$@keep(@config)]\n"
        )  # fmt: skip
        KEPT.clear()
        run_bundle(BUNDLE, "run", ["configs/train.yaml", *map(str, overlays), str(tmp_path / "look.yaml")], **overrides)
        return KEPT.pop()

    return go


def refusal(look: Callable[..., Any], *overlays: Path, **overrides: Any) -> list[str]:
    with pytest.raises(RuntimeError) as error:
        look(*overlays, **overrides)
    cause = error.value.__cause__
    assert type(cause).__name__ == "ConfigError"
    first, *lines = str(cause).split("\n  ")
    assert first == "Misspelt overrides, nothing was started:"
    return lines


MISSPELT = {
    "stpes": "--stpes: the config has no such id (did you mean 'steps'?)",
    "train::handler": "--train::handler: the config has no such id (did you mean 'train::handlers'?)",
    "train#handler": "--train::handler: the config has no such id (did you mean 'train::handlers'?)",
    "train::trainer::max_epocks":
        "--train::trainer::max_epocks: train::trainer takes no argument 'max_epocks' (did you mean 'max_epochs'?)",
    "train#trainer#max_epocks":
        "--train::trainer::max_epocks: train::trainer takes no argument 'max_epocks' (did you mean 'max_epochs'?)",
    "validate::evaluator::apm":
        "--validate::evaluator::apm: validate::evaluator takes no argument 'apm' (did you mean 'amp'?)",
    "train::augmentation::0::degres":
        "--train::augmentation::0::degres: train::augmentation::0 takes no argument 'degres' (did you mean 'degrees'?)",
    "+wieghts": "--wieghts: the config has no such id (did you mean 'weights'?)",
    "trainer": "--trainer: the config has no such id",
    "weights::consistency::form":
        "--weights::consistency::form: weights::consistency takes no argument 'form' (did you mean 'from'?)",
}  # fmt: skip


@pytest.mark.fault("12", "overrides misspelt")
@pytest.mark.filterwarnings("ignore:Can't merge entry")
@pytest.mark.parametrize("key", MISSPELT)
def test_a_misspelt_override_is_refused_with_the_nearest_name(look, key):
    (line,) = refusal(look, **{key: {} if key[0] == "+" else 1})
    assert line.startswith(MISSPELT[key])


@pytest.mark.fault("12", "overrides misspelt")
def test_a_nested_id_that_nobody_has_is_refused(look):
    (line,) = refusal(look, **{"train::epocks": 1})
    assert line.startswith("--train::epocks: the config has no such id")


def test_all_misspelt_overrides_are_in_one_text_and_the_right_ones_are_not(look):
    keys = ["stpes", "train::handler", "train::trainer::max_epocks"]
    lines = refusal(look, steps=5, **dict.fromkeys(keys, 1), seed=1)
    assert lines == [MISSPELT[key] for key in keys]


RIGHT = {
    "a top-level id": {"steps": 5, "output_dir": "/tmp/x"},
    "an id of a component": {"train::trainer::max_epochs": 5, "train#optimizer#momentum": 0.5},
    "an item of a list": {"train::augmentation::0::degrees": 90, "weights::consistency::value": 0.2},
    "a new argument": {"train::optimizer::maximize": True, "train::trainer::guard_interval": 3},
    "a new argument of a target that takes any": {"inferer::progress": True},
    "a key of MONAI's": {"train::handlers::1::_disabled_": True},
    "a window of a weight": {"weights::consistency::from": 0.3},
    "settings of tracking": {"experiment_name": "a", "run_name": "b", "tracking_uri": "c"},
    "metadata": {"_meta_::version": "9.9.9"},
    "a list in memory": {"train::dataset::data": [{"image": "a", "label": "b"}], "validate::dataset::data": []},
}


@pytest.mark.parametrize("overrides", RIGHT.values(), ids=RIGHT)
def test_a_legal_override_passes(look, overrides):
    config = look(**overrides)
    merged = ConfigParser({**config.config, "_meta_": config.metadata})
    for key, value in overrides.items():
        assert merged[key] == value


@pytest.mark.fault("12", "overrides misspelt")
def test_an_args_file_is_judged_as_the_command_line_is(look, tmp_path):
    (tmp_path / "args.yaml").write_text("stpes: 3\nseed: 7\nrun_id: run\n")
    assert refusal(look, args_file=str(tmp_path / "args.yaml")) == [MISSPELT["stpes"]]
    (tmp_path / "args.yaml").write_text("steps: 3\nseed: 7\nrun_id: run\n")
    config = look(args_file=str(tmp_path / "args.yaml"), seed=8)
    assert (config.config["steps"], config.config["seed"]) == (3, 8)


def test_a_config_file_that_an_args_file_names_is_what_overrides_are_judged_by(run_bundle, tmp_path):
    (tmp_path / "args.yaml").write_text(f"config_file: {BUNDLE / 'configs/train.yaml'}\nstpes: 3\n")
    with pytest.raises(RuntimeError) as error:
        run_bundle(BUNDLE, "run", None, args_file=str(tmp_path / "args.yaml"))
    assert MISSPELT["stpes"] in str(error.value.__cause__)


# config files behind the first


def refused_files(look: Callable[..., Any], *overlays: Path, **overrides: Any) -> list[str]:
    with pytest.raises(RuntimeError) as error:
        look(*overlays, **overrides)
    cause = error.value.__cause__
    assert type(cause).__name__ == "ConfigError"
    first, *lines = str(cause).split("\n  ")
    assert first == "Misspelt ids in config files, nothing was started:"
    return lines


@pytest.mark.fault("12", "misspelt ids of a further config file")
def test_a_misspelt_id_of_a_further_config_file_is_refused_with_the_nearest_name(look, tmp_path):
    first, second = tmp_path / "task.yaml", tmp_path / "more.yaml"
    first.write_text("stpes: 3\nseed: 1\ntrain::epocks: 3\n")
    second.write_text("wieghts: {supervised: 1.0}\n+chanels: [t1]\nsteps: 5\n_meta_: {version: '9'}\n")
    with pytest.warns(UserWarning, match="Can't merge entry"):
        lines = refused_files(look, first, second)
    assert lines == [
        f"{first}: stpes: the config has no such id (did you mean 'steps'?)",
        f"{first}: train::epocks: the config has no such id (did you mean 'train::preprocessing'?)",
        f"{second}: wieghts: the config has no such id (did you mean 'weights'?)",
        f"{second}: chanels: the config has no such id (did you mean 'channels'?)",
    ]


def test_new_ids_of_a_further_config_file_that_something_refers_to_pass(look, tmp_path):
    (tmp_path / "more.yaml").write_text(
        "mine: {a: 1}\nhalf: 0.5\nlearning_rate: $@half * @mine::a\ntrain::extra: {_target_: scripts.networks.UNet}\n"
        "other: '@train#extra'\nvalidate::handlers: ['@other']\nimports: [$import math]\ninitialize: []\nrun_name: a\n"
        "train::optimizer::maximize: true\nweights::consistency::from: 0.3\n+train::handlers: []\n"
    )
    config = look(tmp_path / "more.yaml")
    assert config.resolved("learning_rate") == 0.5
    assert look(tmp_path / "more.yaml", **{"mine::a": 2}).config["mine"] == {"a": 2}
    (line,) = refusal(look, tmp_path / "more.yaml", **{"mine::b": 2})
    assert line.startswith("--mine::b: the config has no such id")


def test_an_id_that_the_run_begins_with_passes(run_bundle, tmp_path):
    (tmp_path / "more.yaml").write_text("keep: $__import__('test_overrides').KEPT.append\nmine: [$@keep(@config)]\n")
    KEPT.clear()
    files = ["configs/train.yaml", str(tmp_path / "more.yaml")]
    run_bundle(BUNDLE, "mine", files)
    (tmp_path / "args.yaml").write_text("run_id: mine\n")
    run_bundle(BUNDLE, None, files, args_file=str(tmp_path / "args.yaml"))
    assert len(KEPT) == 2


OURS = sorted(
    path for path in ROOT.glob("bundles/*/configs/*.yaml") if path.name not in ("train.yaml", "inference.yaml")
)
TASKS = sorted((ROOT / "custom/tasks").glob("*.yaml"))


@each_bundle("mean_teacher", "coarse_refined", "contrastive_mutual", "task_affinity")
def test_every_config_file_of_ours_passes_behind_train_and_every_task_behind_inference(bundle):
    configs = bundle / "configs"
    free = {*PROCESS, *RunConfig.NOT_EVERYWHERE}
    for overlay in [*(path for path in OURS if path.parent == configs), *TASKS]:
        judge_files([str(configs / "train.yaml"), str(overlay)], free)
    for task in TASKS:
        judge_files(f"{configs / 'inference.yaml'},{task}", free)


def test_inference_is_judged_too(run_bundle, tmp_path):
    (tmp_path / "model.pt").touch()
    overrides = {"model_file": str(tmp_path / "model.pt"), "evaluator::apm": True}
    with pytest.raises(RuntimeError) as error:
        run_bundle(BUNDLE, "run", "configs/inference.yaml", **overrides)
    assert "evaluator takes no argument 'apm' (did you mean 'amp'?)" in str(error.value.__cause__)


@pytest.mark.fault("12", "an override of nothing")
@pytest.mark.parametrize("nothing", [None, "null", "None"])  # as python-fire gives --clip None and --clip null
def test_nothing_is_nothing(look, nothing):
    """MONAI drops an override of None: ``--train::mixing None`` trained with mixing, without a word."""
    kept = look(**{"train::mixing": nothing, "ema_decay": 0.5})
    assert kept.config["train"]["mixing"] is None
    assert kept.config["ema_decay"] == 0.5


@pytest.mark.fault("12", "no and off for a switch")
@pytest.mark.parametrize("no", ["no", "off", "Off", "NO", "false", "False"])
def test_a_switch_is_read_as_yaml_reads_it(look, no):
    """``--resume off`` was a text, which Python holds true: the run went on with an earlier one."""
    config = look(resume=no, shared_scans="yes", **{"train::trainer::resume": no, "train#optimizer#nesterov": no})
    assert config.resolved("resume") is False
    assert config.resolved("shared_scans") is True
    assert config.config["train"]["trainer"]["resume"] is False, "it refers to a switch"
    assert config.config["train"]["optimizer"]["nesterov"] is False


def test_a_word_where_no_switch_stands_is_a_word(look):
    config = look(amp="off", experiment_name="no", resume="$not @seed")
    assert (config.resolved("amp"), config.resolved("resume")) == ("off", True)
    assert config.resolved("experiment_name") == "no"


@pytest.mark.fault("12", "no and off for a switch")
def test_a_switch_that_is_neither_on_nor_off_is_refused(look):
    with pytest.raises(RuntimeError) as error:
        look(resume="never", shared_scans="n", fill_nonfinite="on")
    assert type(error.value.__cause__).__name__ == "ConfigError"
    assert str(error.value.__cause__).split("\n  ") == [
        "Switches that are neither on nor off, nothing was started:",
        "--resume never: expected true or false (or yes, no, on, off)",
        "--shared_scans n: expected true or false (or yes, no, on, off)",
    ]


@pytest.mark.parametrize("name", ["again", "pictures", "fill_nonfinite"])
def test_a_switch_of_inference_is_read_so_too(run_bundle, tmp_path, name):
    (tmp_path / "model.pt").touch()
    with pytest.raises(RuntimeError) as error:
        run_bundle(BUNDLE, "run", "configs/inference.yaml", model_file=str(tmp_path / "model.pt"), **{name: "perhaps"})
    assert f"--{name} perhaps: expected true or false" in str(error.value.__cause__)


def test_a_workflow_made_by_hand_is_not_judged(bundle_cwd, tmp_path):
    bundle_cwd(BUNDLE)
    workflow = ConfigWorkflow("configs/train.yaml", workflow_type="train", logging_file=False, stpes=3)
    assert workflow.parser.get_parsed_content("config").config["stpes"] == 3


def test_running_outside_of_a_config_is_an_error():
    with pytest.raises(RuntimeError, match="no ConfigParser is evaluating it"):
        running()


# numbers


def test_a_number_with_an_exponent_in_a_config_file_is_a_number(look, tmp_path):
    """YAML 1.1 takes 1e-3 for a text, which ended in PyTorch: '<=' not supported between 'str' and 'float'."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "learning_rate: 1e-3\nclip: 1.5E3\nweights: {supervised: 1e0, consistency: {ramp: 5e-1, until: .4e0}}\n"
        "spacing_mm: [15e-1, 1.5, -1e0]\ntrain::optimizer::weight_decay: +1.e-4\nseed: 1e1\n"
    )
    config = look(overlay, seed=3)
    assert config.resolved("learning_rate") == config._parser.get_parsed_content("train::optimizer::lr") == 0.001
    assert config.resolved("clip") == 1500.0
    assert config.resolved("weights") == {"supervised": 1.0, "consistency": {"ramp": 0.5, "until": 0.4}}
    assert config.resolved("spacing_mm") == [1.5, 1.5, -1.0]
    assert config.config["train"]["optimizer"]["weight_decay"] == 1e-4
    assert config.resolved("seed") == 3, "the command line goes before it"
    assert "  learning_rate = 0.001 (bundle: 0.03)" in config.summary()


def test_a_name_that_reads_as_a_number_is_a_name(look, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("classes: [background, 1e5]\nchannels: [2e1]\ncache_dir: 1e5\noutput_dir: 1e5\namp: 'off'\n")
    config = look(overlay)
    assert (config.resolved("classes"), config.resolved("channels")) == (["background", "1e5"], ["2e1"])
    assert (config.resolved("cache_dir"), config.resolved("amp")) == ("1e5", "off")


def test_a_number_with_an_exponent_in_the_bundle_s_own_file_is_a_number(run_bundle, tmp_path):
    own = (BUNDLE / "configs/train.yaml").read_text().replace("learning_rate: 0.03", "learning_rate: 3e-2")
    (tmp_path / "train.yaml").write_text(own)
    (tmp_path / "metadata.json").write_text((BUNDLE / "configs/metadata.json").read_text())
    (tmp_path / "look.yaml").write_text("keep: $__import__('test_overrides').KEPT.append\nrun: [$@keep(@config)]\n")
    KEPT.clear()
    run_bundle(BUNDLE, "run", [str(tmp_path / "train.yaml"), str(tmp_path / "look.yaml")])
    config = KEPT.pop()
    assert config.resolved("learning_rate") == 0.03
    assert not [line for line in config.summary() if "learning_rate" in line], "it is the bundle's own"


# paths


def reads(*words: str) -> dict[str, Any]:
    """The overrides that python-fire makes of a command line."""
    return {word.partition("=")[0].lstrip("-"): DefaultParseValue(word.partition("=")[2]) for word in words}


WRONG = {
    "2024": "2024",
    "runs#2": "'runs'",
    "1e5": "100000.0",
    "0x10": "16",
    "a,b": "('a', 'b')",
    "True": "True",
    "None": "None",
}


@pytest.mark.fault("8b", "a folder 2024, runs#2, 1e5 on the command line (python-fire#452)")
@pytest.mark.parametrize("name", ["output_dir", "data_list", "dataset_dir"])
@pytest.mark.parametrize(("path", "read"), WRONG.items(), ids=WRONG)
def test_a_path_that_the_command_line_reads_as_something_else_is_refused_with_what_to_write(name, path, read):
    for words in ([f"--{name}={path}"], [f"--{name.replace('_', '-')}", path]):
        with pytest.raises(ConfigError) as error:
            judge_paths(reads(f"--{name}={path}"), words)
        first, line = str(error.value).split("\n  ")
        assert first == "Paths that the command line reads as something else, nothing was started:"
        assert line == f"--{name} {path} is read as {read}: write ./{path}, or the whole path"
    assert judge_paths(reads(f"--{name}=./{path}"), [f"--{name}=./{path}"]) is None, "as the text says"
    assert reads(f"--{name}=./{path}") == {name: f"./{path}"}


@pytest.mark.parametrize(
    "path", ["2024/list.json", "/data/2024", "a b", "Größe", "~/x", "/d/runs#2", "'2024'", "phantom:2d"]
)
def test_a_path_that_arrives_as_it_was_written_passes(path):
    judge_paths(reads(f"--data_list={path}"), [f"--data_list={path}"])


def test_a_path_of_a_program_without_a_command_line_passes():
    judge_paths({"data_list": "/data/list.json"}, [])


@pytest.mark.fault("8b", "a folder 2024 on the command line (python-fire#452)")
def test_a_number_as_output_dir_stops_the_run(look):
    with pytest.raises(RuntimeError) as error:
        look(dataset_dir=2024)
    assert "--dataset_dir 2024 is read as 2024: write ./2024, or the whole path" in str(error.value.__cause__)


@pytest.mark.fault("8b", "a # in a path, of which MONAI makes ::")
def test_a_path_keeps_its_hash_signs(look):
    images = [{"image": "/d/@a #1/p#1.nii.gz"}]
    config = look(data_list="/d/a #1/l.json", **{"train::dataset::data": images})
    assert config.resolved("data_list") == "/d/a #1/l.json"
    assert config._parser.get_parsed_content("train::dataset::data") == images
    assert _local_values(config)["data_list"] == r"$'/d/a \x231/l.json'"


def test_a_home_folder_is_found_where_the_shell_leaves_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert under("/bundle", "~/out") == list_path("~/out", root="/bundle") == tmp_path / "out"
    assert under("/bundle", "out") == Path("/bundle/out")


@pytest.mark.fault("8b", "a # in a path, of which MONAI makes ::")
def test_a_number_sign_in_a_config_file_stays_and_an_override_goes_before_it(look, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "initial_weights: /m/runs#2\ndata_list: '/d/cohort #1/l.json'\nclasses: [background, 'lesion #1']\n"
    )
    config = look(overlay)
    assert config.resolved("initial_weights") == "/m/runs#2"
    assert config.resolved("data_list") == "/d/cohort #1/l.json"
    assert config.resolved("classes") == ["background", "lesion #1"]
    assert look(overlay, data_list="/e/l.json").resolved("data_list") == "/e/l.json"


def test_a_file_called_true_is_a_path():
    parser = ConfigParser({"data_list": "true", "gates": "false"})
    parser.parse()
    restore(parser, {"data_list": "true", "gates": "false"})
    assert (parser.get_parsed_content("data_list"), parser.get_parsed_content("gates")) == ("true", False)
