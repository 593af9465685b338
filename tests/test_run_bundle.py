"""The promises of custom/run/bundle.py: the config files that a run leaves behind, and the bundle around them."""

from __future__ import annotations

import copy
import difflib
import json
import random
import re
from typing import Any

import pytest
import yaml
from conftest import ROOT
from run_config import BUNDLE, config_of

from custom.run.bundle import rewrite, write_bundle
from custom.run.config import RunConfig

TRAIN = BUNDLE / "configs/train.yaml"
TASKS = sorted((ROOT / "custom/tasks").glob("*.yaml"))


def same(a: Any, b: Any) -> bool:
    """Equal with their types, whatever the order of keys; nan is nan."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


TEXT = """# what it is
a: 1       # one
b: [1, 2]  # two
nested:    # three
  c: false
  d: null  # nothing
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
    written = [path for name in ("train", "inference") for path in sorted(ROOT.glob(f"bundles/*/configs/{name}.yaml"))]
    for path in [*written, *sorted(ROOT.glob("custom/tasks/*.yaml"))]:
        text = path.read_text()
        assert rewrite(text, yaml.safe_load(text)) == text, path


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
        ({"nested__c": "off"}, "c: false", "c: 'off'"),
        ({"nested__d": 3}, "  d: null ", "  d: 3    "),
        ({"nested__f__h": "x, y"}, "h: x}", "h: 'x, y'}"),
        ({"steps": [{"_target_": "A", "p": 2}, {"_target_": "B"}]}, "p: 1}", "p: 2}"),
        ({"numbers": {0: "null", 1: "one"}}, "0: zero", "0: 'null'"),
    ],
)
def test_one_change_is_one_place_and_every_comment_stays(change, old, new):
    assert TEXT.count(old) == 1
    assert packed(rewritten(**change)) == packed(TEXT.replace(old, new))


def packed(text: str) -> str:
    """The text with comments one space after what they stand beside: their columns move with a value's length."""
    return re.sub(r"(?<=\S) +#", " #", text)


def test_a_block_that_is_replaced_keeps_the_comments_round_it():
    before, _, after = rewritten(nested=[1]).partition("nested: [1] # three\n")
    assert TEXT.startswith(before)
    assert after == "\n# six" + TEXT.split("# six")[1]


def test_what_only_the_config_has_is_appended(tmp_path):
    config = {**yaml.safe_load(TEXT), "new": {"a": [1, "off"]}, "other": 1e-05}
    text = rewrite(TEXT, config)
    assert text.startswith(TEXT)
    assert same(yaml.safe_load(text[len(TEXT) :]), {"new": {"a": [1, "off"]}, "other": 1e-05})
    assert yaml.safe_load(rewrite("a: 1", {"a": 1, "b": 2})) == {"a": 1, "b": 2}, "a file without a last newline"


def test_anchors_do_not_make_one_change_two():
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
    rounds = 8 if len(text) > 5000 else 80
    for _round in range(rounds):
        config = {key: shaken(value, rng, 0.1) for key, value in yaml.safe_load(text).items()}
        config |= {f"new{i}": rng.choice(VALUES) for i in range(rng.choice([0, 0, 2]))}
        found = yaml.safe_load(rewrite(text, config))
        assert same(found, config), config


@pytest.mark.parametrize("empty", [{}, []])
def test_what_is_emptied_behind_a_comment_reads_back(empty):
    text = "a:  # comment\n  b: 1\nc:  # comment\n- 1\n- 2\nd: 3\n"
    assert yaml.safe_load(rewrite(text, {"a": empty, "c": empty, "d": 3})) == {"a": empty, "c": empty, "d": 3}


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


@pytest.mark.parametrize(("name", "task"), [
    pytest.param(name, path, id=f"{name}-{path.stem}", marks=() if path.stem in tasks else pytest.mark.slow)
    for path in TASKS
    for name, tasks in (("mean_teacher", {path.stem for path in TASKS}), ("supervised", ("phantom_3d", "hippocampus")))
])  # fmt: skip
def test_the_written_bundle_of_any_task_keeps_every_comment(tmp_path, name, task):
    """Tasks replace whole lists: some have fewer transforms than the bundle's own. What has no use goes with its comment."""
    bundle = ROOT / "bundles" / name
    write_bundle(tmp_path, config_of(task, bundle=bundle))
    for file in ("configs/train.yaml", "configs/inference.yaml"):
        written = (tmp_path / file).read_text()
        ids = yaml.safe_load(written)
        kept = [line for line in (bundle / file).read_text().splitlines() if line.partition(":")[0] in ids or ":" not in line
                or not line.startswith(RunConfig.NOT_EVERYWHERE)]  # fmt: skip
        before, after = comments("\n".join(kept)), comments(written)
        assert len(before) > 20
        assert after == before, file


def test_a_list_of_another_length_stays_a_list_of_lines():
    assert "steps:\n- {_target_: C} # seven\nnumbers" in packed(rewritten(steps=[{"_target_": "C"}]))
    assert "steps:\n- 1 # seven\n- x\n- '@a'\nnumbers" in packed(rewritten(steps=[1, "x", "@a"]))
    for nothing in ([], None, {"_target_": "C"}):
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
    for name in ("channels", "classes", "widths", "preprocessing", "inferer", "network_def"):
        assert train[name] == inference[name] == config.config[name], name
    own = yaml.safe_load((BUNDLE / "configs/inference.yaml").read_text())
    for name in ("data", "dataset_dir", "dataset", "output_dir", "run", "config"):
        assert inference[name] == own[name], f"{name} of inference is not that of training"
    formats = json.loads((tmp_path / "configs/metadata.json").read_text())["network_data_format"]
    assert formats["inputs"]["image"]["channel_def"] == dict(zip("01", config.config["channels"], strict=True))
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "no", "1": "yes"}
    assert (tmp_path / "scripts/run/config.py").is_file()
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


@pytest.mark.parametrize("bundle", sorted((ROOT / "bundles").iterdir()), ids=lambda path: path.name)
def test_without_overrides_inference_is_the_bundle_s_own(tmp_path, bundle):
    """Ids in which inference.yaml differs from train.yaml are named in custom/run/bundle.py."""
    write_bundle(tmp_path, config_of(bundle=bundle))
    own, written = ((folder / "configs/inference.yaml").read_text() for folder in (bundle, tmp_path))
    assert written == own
