"""The promises of custom/run_config.py, and of the config files that a run leaves behind (custom/run_bundle.py)."""

from __future__ import annotations

import copy
import difflib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from monai.bundle import ConfigParser, ConfigWorkflow

from custom.run import checkpoint
from custom.run.bundle import rewrite, write_bundle
from custom.run.config import RunConfig, running

BUNDLE = ROOT / "bundles/mean_teacher"
TRAIN = BUNDLE / "configs/train.yaml"
KEPT: list[Any] = []  # configs that the runs below append to


def config_of(*overlays: Path, bundle: Path = BUNDLE, **overrides: Any) -> RunConfig:
    """The config of a run of the bundle, from outside of it."""
    files = [str(bundle / "configs/train.yaml"), *map(str, overlays)]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    for key, value in {"bundle_root": str(bundle), **overrides}.items():
        parser[key] = value
    parser["_meta_"] = json.loads((bundle / "configs/metadata.json").read_text())
    return RunConfig(parser)


# misspelt overrides, through monai.bundle.run


@pytest.fixture
def look(run_bundle: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Run the bundle with a ``run`` that only keeps the config; returns that."""

    def go(*overlays: Path, **told: Any) -> Any:
        (tmp_path / "look.yaml").write_text(
            "keep: $__import__('test_run_config').KEPT.append\n"
            "run: [$@keep(@config)]\n"
        )  # fmt: skip
        KEPT.clear()
        run_bundle(BUNDLE, "run", ["configs/train.yaml", *map(str, overlays), str(tmp_path / "look.yaml")], **told)
        return KEPT.pop()

    return go


def refusal(look: Callable[..., Any], *overlays: Path, **told: Any) -> list[str]:
    with pytest.raises(RuntimeError) as error:
        look(*overlays, **told)
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
    "an item of a list": {"train::augmentation::0::degrees": 90, "weights::consistency::ramp": 0.2},
    "a new argument": {"train::optimizer::maximize": True, "train::trainer::guard_interval": 3},
    "a new argument of a target that takes any": {"inferer::progress": True},
    "a key of MONAI's": {"train::handlers::1::_disabled_": True},
    "a window of a weight": {"weights::consistency::from": 0.3},
    "settings of tracking": {"experiment_name": "a", "run_name": "b", "tracking_uri": "c"},
    "metadata": {"_meta_::version": "9.9.9"},
    "a list in memory": {"train::dataset::data": [{"image": "a", "label": "b"}], "validate::dataset::data": []},
}


@pytest.mark.parametrize("told", RIGHT.values(), ids=RIGHT)
def test_a_legal_override_passes(look, told):
    config = look(**told)
    merged = ConfigParser({**config.config, "_meta_": config.metadata})
    for key, value in told.items():
        assert merged[key] == value


@pytest.mark.fault("12", "overrides misspelt")
def test_an_args_file_is_judged_as_the_command_line_is(look, tmp_path):
    (tmp_path / "args.yaml").write_text("stpes: 3\nseed: 7\nrun_id: run\n")
    assert refusal(look, args_file=str(tmp_path / "args.yaml")) == [MISSPELT["stpes"]]
    (tmp_path / "args.yaml").write_text("steps: 3\nseed: 7\nrun_id: run\n")
    config = look(args_file=str(tmp_path / "args.yaml"), seed=8)
    assert (config.config["steps"], config.config["seed"]) == (3, 8)


def test_a_config_file_that_an_args_file_names_is_what_overrides_are_judged_by(run_bundle, tmp_path):
    (tmp_path / "args.yaml").write_text(f"config_file: {TRAIN}\nstpes: 3\n")
    with pytest.raises(RuntimeError) as error:
        run_bundle(BUNDLE, "run", None, args_file=str(tmp_path / "args.yaml"))
    assert MISSPELT["stpes"] in str(error.value.__cause__)


def test_keys_of_an_overlay_are_new_ids_and_not_judged(look, tmp_path):
    (tmp_path / "more.yaml").write_text("stpes: 3\nmine: {a: 1}\n")
    assert look(tmp_path / "more.yaml").config["stpes"] == 3
    assert look(tmp_path / "more.yaml", **{"mine::a": 2}).config["mine"] == {"a": 2}
    (line,) = refusal(look, tmp_path / "more.yaml", **{"mine::b": 2})
    assert line.startswith("--mine::b: the config has no such id")


def test_inference_is_judged_too(run_bundle, tmp_path):
    (tmp_path / "model.pt").touch()
    told = {"model_file": str(tmp_path / "model.pt"), "evaluator::apm": True}
    with pytest.raises(RuntimeError) as error:
        run_bundle(BUNDLE, "run", "configs/inference.yaml", **told)
    assert "evaluator takes no argument 'apm' (did you mean 'amp'?)" in str(error.value.__cause__)


def test_a_workflow_made_by_hand_is_not_judged(bundle_cwd, tmp_path):
    bundle_cwd(BUNDLE)
    workflow = ConfigWorkflow("configs/train.yaml", workflow_type="train", logging_file=False, stpes=3)
    assert workflow.parser.get_parsed_content("config").config["stpes"] == 3


def test_running_outside_of_a_config_is_an_error():
    with pytest.raises(RuntimeError, match="no ConfigParser is evaluating it"):
        running()


# what a resumed run may not change


def changes(**overrides: Any) -> list[str]:
    return checkpoint.differences(config_of().comparable(), config_of(**overrides).comparable(), RunConfig.FREE)


@pytest.mark.fault("2c", "one key changed")
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"widths": [16, 64]}, "written with widths=[16, 32, 64, 128], this config has [16, 64]"),
        ({"seed": 1}, "written with seed=0, this config has 1"),
        ({"steps": 900}, "written with steps=600, this config has 900"),
        ({"clip": 1.0}, "written with clip=None, this config has 1.0"),
        ({"weights::consistency::ramp": 0.2}, "written with weights::consistency::ramp=0.1, this config has 0.2"),
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
    config = config_of(mine=mine).comparable()
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


def test_the_summary_shows_resolved_settings_and_no_component():
    config = config_of(steps=7, learning_rate=1e-5)
    lines = config.summary()
    text = " ".join(line.strip() for line in lines)
    assert lines[0].startswith("settings  data_list=phantom:2d  ")
    assert f"output_dir={BUNDLE}/eval" in text, "resolved"
    for setting in ("steps=7", "learning_rate=1e-05", "widths=[16, 32, 64, 128]", "clip=None", "amp=auto",
                    "weights={'supervised': 1.0, 'consistency': {'ramp': 0.1, 'until': 1.0}}", "mlflow_uri="):  # fmt: skip
        assert setting in text, setting
    for component in "network train validate inferer preprocessing run training config device _meta_".split():
        assert f"{component}=" not in text, component
    assert not any(mark in text for mark in ("@", "$", "_target_"))
    assert max(map(len, lines)) < 200


def test_a_filled_config_has_numbers_where_settings_are_referred_to():
    config = RunConfig(
        ConfigParser({"a": 3, "b": {"_target_": "x.Y", "lr": "@a", "net": "@b", "all": ["@a", "$@a + 1"]}})
    )
    assert config.filled() == {"a": 3, "b": {"_target_": "x.Y", "lr": 3, "net": "@b", "all": [3, "$@a + 1"]}}


def test_the_summary_builds_nothing():
    broken = {"b": {"_target_": "no.such.Thing"}, "c": "$1 / 0", "d": ["@b"], "e": {"f": "$1 / 0"}}
    config = RunConfig(ConfigParser({"a": 1, **broken}))
    assert config.settings() == {"a": 1}
    assert config.summary() == ["settings  a=1"]


# rewrite: the config files that a run leaves behind


def same(a: Any, b: Any) -> bool:
    """Equal with their types, whatever the order of keys; nan is nan."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


TEXT = """# what it is
a: 1       # one
b: [1, 2]  # two
nested:    # three
  c: off
  d:       # a null that nobody wrote
  deep:
    e: "text"
    # four, of the last of deep
  # five, of the next
  f: {g: 1.0e-4, h: x}

# six, a section ------------------------
steps:
- {_target_: A, p: 1}   # seven
- {_target_: B}
numbers: {0: zero, 1: one}
run: [$@a, $@b]
training: '%run'  # eight
macros: {x: '%a', y: 1}
"""


def rewritten(**changes: Any) -> str:
    config = yaml.safe_load(TEXT)
    for key, value in changes.items():
        place = config
        *parents, last = key.split("__")
        for name in parents:
            place = place[name]
        place[last] = value
    expected = copy.deepcopy(config)
    config["training"] = config["run"]  # as MONAI's parser resolves macros
    config["macros"]["x"] = config["a"]
    text = rewrite(TEXT, config)
    assert same(yaml.safe_load(text), expected)
    return text


def test_a_config_that_did_not_change_stays_the_same_text():
    assert rewritten() == TEXT
    for path in sorted(ROOT.glob("bundles/*/configs/*.yaml")) + sorted(ROOT.glob("custom/tasks/*.yaml")):
        text = path.read_text()
        assert rewrite(text, yaml.safe_load(text)) == text


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        ({"a": 1e-05}, "a: 1 ", "a: 1.0e-05 "),
        ({"a": True}, "a: 1 ", "a: true "),
        ({"a": 1.0}, "a: 1 ", "a: 1.0 "),
        ({"a": "1.0"}, "a: 1 ", "a: '1.0' "),
        ({"a": {"x": [1]}}, "a: 1 ", "a: {x: [1]} "),
        ({"b": [1, 3]}, "b: [1, 2]", "b: [1, 3]"),
        ({"b": [4]}, "b: [1, 2]", "b: [4]"),
        ({"nested__c": "off"}, "c: off", "c: 'off'"),
        ({"nested__d": 3}, "  d:  ", "  d: 3  "),
        ({"nested__f__h": "x, y"}, "h: x}", "h: 'x, y'}"),
        ({"nested__deep": {"e": "text", "z": 1}}, 'e: "text"', "{e: text, z: 1}"),
        ({"steps": [{"_target_": "A", "p": 2}, {"_target_": "B"}]}, "p: 1}", "p: 2}"),
        ({"numbers": {0: "null", 1: "one"}}, "0: zero", "0: 'null'"),
    ],
)
def test_one_change_is_one_place_and_every_comment_stays(change, old, new):
    assert TEXT.count(old) == 1
    assert rewritten(**change) == TEXT.replace(old, new)


def test_a_block_that_is_replaced_keeps_the_comments_round_it():
    """The YAML parser counts what follows an indented block as part of it."""
    text = rewritten(nested=[1])
    assert text == TEXT[: TEXT.index("  c: off")] + "  [1]\n\n# six" + TEXT.split("# six")[1]


def test_what_only_the_config_has_is_appended(tmp_path):
    config = {**yaml.safe_load(TEXT), "new": {"a": [1, "off"]}, "other": 1e-05}
    text = rewrite(TEXT, config)
    assert text.startswith(TEXT)
    assert same(yaml.safe_load(text[len(TEXT) :]), {"new": {"a": [1, "off"]}, "other": 1e-05})
    assert yaml.safe_load(rewrite("a: 1", {"a": 1, "b": 2})) == {"a": 1, "b": 2}, "a file without a last newline"


def test_what_cannot_be_edited_in_place_is_written_anew():
    text = "a: &x {b: 1}  # comment\nc: *x\nd: {<<: *x, e: 2}\n"
    config = {"a": {"b": 1}, "c": {"b": 5}, "d": {"b": 1, "e": 3}}
    assert yaml.safe_load(rewrite(text, config)) == config


VALUES: list[Any] = [
    0, -3, 10**20, 0.1, 1e-05, 1e22, float("inf"), float("nan"), True, False, None, "", " ", "off", "yes", "null", "~",
    "1.0", "1e-3", "1e-05", "0x1F", "012", "1_000", "12:30:00", "2024-01-01", "%run", "@a::b", "$@a + 1", "$'x' if @x else 'y'",
    "a, b", "x: y", "x # no comment", "#", "[1", "]", "{a", "- a", "? a", "! a", "& a", "* a", "| a", "'quoted'", '"',
    "\\n", "line\nline", "line\n", "\ttab", " lead", "trail ", "ärmel", "...", "---", "=", "<<", "a" * 500, [], {}, [[]],
    [1, "2", None], [0.03, "off", ["x, y"]], {"a": [1, {"b": "c, d"}]}, {"on": "off", "1": 1.0}, {"_target_": "A", "p": "@b"},
]  # fmt: skip


def shaken(config: Any, rng: random.Random, chance: float) -> Any:
    """A copy in which some values, at any depth, are others; macros stay."""
    if isinstance(config, str) and config.startswith("%"):
        return config
    if rng.random() < chance:
        return copy.deepcopy(rng.choice(VALUES))
    if isinstance(config, dict):
        return {key: shaken(value, rng, chance) for key, value in config.items()}
    if isinstance(config, list):
        return [shaken(value, rng, chance) for value in config]
    return config


@pytest.mark.parametrize(
    "text",
    [TEXT, TRAIN.read_text(), (BUNDLE / "configs/inference.yaml").read_text(),
     (ROOT / "custom/tasks/acdc.yaml").read_text(), "a:\nb:\n  c:\n", "a: |\n  text\n  text\n\n# c\nb: >-\n  x\n  y\n",
     "x: {y: {z: []}}"],
    ids=["text", "train", "inference", "task", "nulls", "block scalars", "empty"],
)  # fmt: skip
def test_whatever_changes_reads_back_as_it_was_told(text):
    rng = random.Random(0)
    rounds = 15 if len(text) > 5000 else 80
    for _round in range(rounds):
        config = {key: shaken(value, rng, 0.1) for key, value in yaml.safe_load(text).items()}
        config |= {f"new{i}": rng.choice(VALUES) for i in range(rng.choice([0, 0, 2]))}
        found = yaml.safe_load(rewrite(text, config))
        assert same(found, config), config


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_any_value_can_stand_in_any_place(value):
    for key in ("a", "b", "nested__d", "nested__deep__e", "nested__f__h", "steps"):
        rewritten(**{key: copy.deepcopy(value)})


def test_a_run_s_train_yaml_keeps_all_comments_and_changes_the_lines_that_changed():
    before = TRAIN.read_text()
    config = yaml.safe_load(before)
    config |= {"learning_rate": 1e-05, "amp": "off", "clip": 1.0, "widths": [4, 8], "resume": True}
    config["train"]["optimizer"]["weight_decay"] = 3e-05
    after = rewrite(before, config)
    lines = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    assert len(lines) == 2 * 6
    comments = [[line.partition("#")[2] for line in text.splitlines()] for text in (before, after)]
    assert comments[0] == comments[1]
    assert "learning_rate: 1.0e-05 " in after
    assert "amp: 'off' " in after


# write_bundle


def test_the_bundle_of_a_run_on_several_gpus_trains_on_one_as_well(tmp_path):
    config = config_of(BUNDLE / "configs/multi_gpu_train.yaml", learning_rate=0.5)
    assert "finalize" in config.config
    write_bundle(tmp_path, config)
    original, written = (yaml.safe_load((folder / "configs/train.yaml").read_text()) for folder in (BUNDLE, tmp_path))
    assert written["run"] == original["run"]
    assert written["training"] == "%run"
    assert "finalize" not in written
    assert written["learning_rate"] == 0.5


def comments(text: str) -> list[str]:
    return [comment for line in text.splitlines() if (comment := line.partition("#")[2])]


@pytest.mark.parametrize("task", sorted((ROOT / "custom/tasks").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["supervised", "mean_teacher"])
def test_the_written_bundle_of_any_task_keeps_every_comment(tmp_path, name, task):
    """Tasks replace whole lists: some have fewer transforms than the bundle's own."""
    bundle = ROOT / "bundles" / name
    write_bundle(tmp_path, config_of(task, bundle=bundle))
    for file in ("configs/train.yaml", "configs/inference.yaml"):
        before, after = comments((bundle / file).read_text()), comments((tmp_path / file).read_text())
        assert len(before) > 20
        assert after == before, file


def test_a_list_of_another_length_stays_a_list_of_lines():
    assert "steps:\n- {_target_: C}\nnumbers" in rewritten(steps=[{"_target_": "C"}])
    assert "steps:\n- 1\n- x\n- '@a'\nnumbers" in rewritten(steps=[1, "x", "@a"])
    for nothing in ([], None, {"_target_": "C"}):  # "steps:" and "[]" begin at the same letter
        assert comments(rewritten(steps=nothing)) == [c for c in comments(TEXT) if c != " seven"]


def test_the_written_bundle_has_the_run_s_task_and_its_own_paths(tmp_path):
    task = ROOT / "custom/tasks/phantom_two_channels.yaml"
    config = config_of(task, data_list="lists/mine.json", classes=["no", "yes"])
    write_bundle(tmp_path, config)
    train, inference = (
        yaml.safe_load((tmp_path / "configs" / name).read_text()) for name in ("train.yaml", "inference.yaml")
    )
    assert train["data_list"] == str(BUNDLE / "lists/mine.json")
    assert train["dataset_dir"] == str(BUNDLE / "data")
    assert (train["bundle_root"], train["resume"]) == (".", False)
    for name in ("channels", "classes", "patch", "widths", "preprocessing", "inferer", "network_def"):
        assert train[name] == inference[name] == config.config[name], name
    own = yaml.safe_load((BUNDLE / "configs/inference.yaml").read_text())
    for name in ("data", "dataset_dir", "dataset", "output_dir", "run", "config"):
        assert inference[name] == own[name], f"{name} of inference is not that of training"
    formats = json.loads((tmp_path / "configs/metadata.json").read_text())["network_data_format"]
    assert formats["inputs"]["image"]["channel_def"] == dict(zip("01", config.config["channels"], strict=True))
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "no", "1": "yes"}
    assert (tmp_path / "scripts/run_config.py").is_file()
    assert not (tmp_path / "scripts").is_symlink()


def test_the_written_metadata_describes_each_modality_s_network_by_the_file_it_is_in(tmp_path):
    """Where the bundle's own describes networks; the names of the files are Output.serve's."""
    own = ROOT / "bundles/contrastive_mutual"
    write_bundle(tmp_path, config_of(ROOT / "custom/tasks/lgg.yaml", bundle=own))
    found = json.loads((tmp_path / "configs/metadata.json").read_text())["networks"]
    classes = {"0": "background", "1": "tumour"}
    assert found == {
        "flair": {"file": "models/model.pt", "modality": "flair", "channel": 0, "classes": classes},
        "t1ce": {"file": "models/t1ce.pt", "modality": "t1ce", "channel": 1, "classes": classes},
    }
    before = json.loads((own / "configs/metadata.json").read_text())
    write_bundle(tmp_path, config_of(bundle=own))
    assert json.loads((tmp_path / "configs/metadata.json").read_text()) == before
    write_bundle(tmp_path, config_of())
    assert "networks" not in json.loads((tmp_path / "configs/metadata.json").read_text())
