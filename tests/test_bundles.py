"""What every folder in ``bundles/`` keeps: files, ids, references, names, exports, and a run from start to end."""

from __future__ import annotations

import copy
import csv
import functools
import importlib
import inspect
import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import DIFFERENT, ROOT, default_task, each_bundle, tiny
from jsonschema import validate
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_metadata, verify_net_in_out
from monai.bundle.config_parser import ID_REF_KEY

OURS = """data_list output_dir resume seed epoch_steps labelled_batch learning_rate weights patch widths amp accumulate workers
    val_interval mlflow_uri steps initial_weights""".split()
FOR_SOME = ("unlabelled_batch", "dropout", "spacing_mm")  # ids that a task sets and not every bundle has
MONAIS_TRAIN = """bundle_root device dataset_dir output_dir network_def network train::trainer train::trainer::max_epochs
    train::dataset train::dataset::data train::inferer train::handlers validate::evaluator
    validate::handlers validate::dataset validate::dataset::data val_interval run training""".split()
MONAIS_INFER = """bundle_root device dataset_dir output_dir network_def network preprocessing postprocessing dataset evaluator
    inferer run""".split()
FILES = """configs/metadata.json configs/train.yaml configs/multi_gpu_train.yaml configs/evaluate.yaml configs/inference.yaml
    configs/logging.conf docs/README.md LICENSE scripts""".split()
TASKS = sorted((ROOT / "custom/tasks").glob("*.yaml"))
BASE = ROOT / "bundles/supervised"
SCHEMA = ROOT / "tests/data/meta_schema_20240725.json"

each_task = pytest.mark.parametrize("task", TASKS, ids=lambda p: p.stem)


def load(bundle: Path, *names: str) -> dict[str, Any]:
    return copy.deepcopy(loaded(bundle, *names))


@functools.cache
def loaded(bundle: Path, *names: str) -> dict[str, Any]:
    return ConfigParser.load_config_files([str(bundle / "configs" / name) for name in names])


def overlay(bundle: Path, name: str) -> dict[str, Any]:
    return load(bundle, *(["train.yaml"] if name in ("evaluate.yaml", "multi_gpu_train.yaml") else []), name)


def has(config: dict[str, Any] | ConfigParser, name: str) -> bool:
    try:
        return name in (config if isinstance(config, ConfigParser) else ConfigParser(config))
    except (KeyError, TypeError):
        return False


# files, ids, references, names


@each_bundle()
def test_every_file_is_there(bundle):
    assert [name for name in FILES if not (bundle / name).exists()] == []
    assert (bundle / "scripts").resolve() == ROOT / "custom"


@each_bundle()
def test_every_id_is_there(bundle):
    train, inference = load(bundle, "train.yaml"), load(bundle, "inference.yaml")
    assert [name for name in OURS + MONAIS_TRAIN if not has(train, name)] == []
    assert [name for name in MONAIS_INFER if not has(inference, name)] == []
    assert isinstance(train["train"]["handlers"], list)
    assert train["training"] == "%run"


@each_bundle()
def test_what_a_user_changes_comes_first_with_its_meaning(bundle):
    """Every plain setting stands before the task and the machinery, with a comment beside it."""
    text = (bundle / "configs/train.yaml").read_text()
    first = text[text.index("# 1 what you change") : text.index("# 2 the task")]
    own = set(load(bundle, "train.yaml")) - set(load(BASE, "train.yaml"))  # settings of this method
    for name in [*OURS, "foreground", "clip", *own]:
        line = next((x for x in first.splitlines() if x.startswith(f"{name}:")), None)
        assert line is not None, name
        assert "#" in line, f"{name} has no comment"


def problems(config: dict[str, Any]) -> list[str]:
    """Ids that are referred to and do not exist, targets that cannot be imported, arguments that they do not take."""
    found = []
    parser = ConfigParser(config)
    for where, value in walk(config):
        for name in re.findall(rf"(?<![\w.]){ID_REF_KEY}([\w:]+)", value) if isinstance(value, str) else ():
            if not has(parser, name):
                found.append(f"{where}: @{name} does not exist")
        if isinstance(value, dict) and "_target_" in value:
            found += [f"{where}: {text}" for text in wrong_arguments(value)]
    return found


def walk(config: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    yield where, config
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield from walk(value, f"{where}::{key}" if where else str(key))


@functools.cache
def locate(target: str) -> Any:
    if target.startswith("scripts."):
        target = "custom." + target.removeprefix("scripts.")
    else:
        module = __import__("monai.bundle", fromlist=["x"]).ComponentLocator().get_component_module_name(target)
        target = f"{module}.{target}" if isinstance(module, str) else target
    module_name, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), name, None)
    except (ImportError, ValueError):
        return None


def wrong_arguments(component: dict[str, Any]) -> list[str]:
    target = locate(component["_target_"])
    if target is None:
        return [f"{component['_target_']} does not exist"]
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    return [
        f"{component['_target_']} takes no {key}"
        for key in component
        if not key.startswith("_") and key not in parameters
    ]


CONFIGS = ("train.yaml", "inference.yaml", "evaluate.yaml", "multi_gpu_train.yaml")


@each_bundle()
@pytest.mark.parametrize("name", CONFIGS)
def test_every_reference_target_and_argument_exists(bundle, name):
    assert problems(overlay(bundle, name)) == []


@pytest.mark.fault("12", "mistakes in a bundle")
@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("'@train::optimizer'", "'@train::optimiser'", "@train::optimiser does not exist"),
        (
            "scripts.stream.stream.Stream",
            "scripts.stream.stream.Streams",
            "scripts.stream.stream.Streams does not exist",
        ),
        ("DiceCELoss", "DiceCELos", "DiceCELos does not exist"),
        ("lambda_dice", "lambda_dise", "DiceCELoss takes no lambda_dise"),
        ("max_epochs:", "max_epocks:", "DualStreamTrainer takes no max_epocks"),
        ("interval: '@val_interval'", "intervall: '@val_interval'", "ValidationHandler takes no intervall"),
    ],
)
def test_a_broken_copy_is_found(tmp_path, old, new, complaint):
    """The test above, on a bundle with one mistake."""
    (tmp_path / "configs").mkdir()
    text = (BASE / "configs/train.yaml").read_text()
    assert old in text
    (tmp_path / "configs/train.yaml").write_text(text.replace(old, new, 1))
    found = problems(load(tmp_path, "train.yaml"))
    assert any(complaint in text for text in found), found


@each_bundle()
def test_no_number_is_a_string(bundle):
    """YAML reads 1e-3 as a string."""
    for name in CONFIGS:
        strings = [value for _, value in walk(load(bundle, name)) if isinstance(value, str)]
        assert [s for s in strings if re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", s)] == []


# the default task


@each_bundle()
def test_the_default_task_is_a_task_file(bundle):
    """The numbers of the default are those of scripts/tasks/phantom_FORM.yaml, and metadata.json describes them."""
    train, task = load(bundle, "train.yaml"), yaml.safe_load(default_task(bundle).read_text())
    assert {name: train.get(name) for name in task if name not in FOR_SOME} == without(task, FOR_SOME)
    formats = load(bundle, "metadata.json")["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert (image["num_channels"], list(image["channel_def"].values())) == (len(task["channels"]), task["channels"])
    assert (pred["num_channels"], list(pred["channel_def"].values())) == (len(task["classes"]), task["classes"])
    assert image["spatial_shape"] == pred["spatial_shape"] == task["patch"]


@each_task
@each_bundle(*DIFFERENT, "supervised")
def test_a_task_sets_top_level_ids_that_the_bundle_has(bundle, task):
    train, inference, own = load(bundle, "train.yaml"), load(bundle, "inference.yaml"), yaml.safe_load(task.read_text())
    assert [name for name in own if name not in (*train, *FOR_SOME)] == []
    assert problems({**without(train, FOR_SOME), **own}) == []
    assert problems({**without(inference, FOR_SOME), **own}) == []
    assert all(size % 2 ** (len(own["widths"]) - 1) == 0 for size in own["patch"])
    assert len(own["dropout"]) == len(own["widths"])
    assert own["steps"] % own["epoch_steps"] == 0


def without(config: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


@each_bundle()
@pytest.mark.parametrize("name", ["train.yaml", "inference.yaml"])
def test_no_setting_does_nothing(bundle, name):
    config = load(bundle, name)
    named = {
        found
        for _, value in walk(config)
        if isinstance(value, str)
        for found in re.findall(rf"{ID_REF_KEY}(\w+)", value)
    }
    of_the_check = {"shared_scans", "orientation"}  # which asks the config for it
    assert set(config) - named - of_the_check - {"run", "training", "_meta_"} == set()


# MONAI's own checks


@each_bundle()
def test_metadata_follows_the_schema(bundle, monkeypatch, tmp_path):
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    validate(metadata, json.loads(SCHEMA.read_text()))
    for name in ("version", "changelog", "intended_use", "references", "network_data_format"):
        assert metadata[name]
    assert metadata["version"] in metadata["changelog"]
    monkeypatch.setattr("monai.bundle.scripts.download_url", lambda filepath, **_: shutil.copy(SCHEMA, filepath))
    verify_metadata(meta_file=str(bundle / "configs/metadata.json"), filepath=str(tmp_path / "schema.json"))


@each_bundle()
@pytest.mark.parametrize(("kind", "name"), [("train", "train.yaml"), ("infer", "inference.yaml")])
def test_monai_finds_every_property(bundle, kind, name, bundle_cwd, phantoms, tmp_path):
    bundle_cwd(bundle)
    torch.save({}, tmp_path / "model.pt")
    overrides = {
        "dataset_dir": str(phantoms / ("" if kind == "train" else f"{default_task(bundle).stem}/images")),
        "output_dir": str(tmp_path),
    }
    if kind == "infer":
        overrides["model_file"] = str(tmp_path / "model.pt")
    workflow = ConfigWorkflow(f"configs/{name}", workflow_type=kind, logging_file=False, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert not list(tmp_path.glob("last_*")), "looking at a workflow must not start a run"


@each_bundle()
def test_the_network_takes_and_gives_what_metadata_says(bundle, bundle_cwd):
    bundle_cwd(bundle)
    for name in ("train.yaml", "inference.yaml"):
        verify_net_in_out("network_def", meta_file="configs/metadata.json", config_file=f"configs/{name}", device="cpu")


@each_bundle()
def test_one_step_gives_finite_terms_and_a_network_that_serves(bundle, run_bundle):
    """A run of one step, in which every term has its weight from the start."""
    given = load(bundle, "train.yaml")["weights"]
    weights = {
        term: weight.get("value", weight.get("ramp")) if isinstance(weight, dict) else weight
        for term, weight in given.items()
    }
    out = run_bundle(bundle, **{**tiny(bundle), "steps": 1, "epoch_steps": 1}, weights=weights)
    with (out / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    terms = {name.removeprefix("term/"): float(value) for name, value in row.items() if name.startswith("term/")}
    assert terms.keys() == weights.keys()
    assert all(math.isfinite(value) for value in terms.values()), terms
    assert all(value.isfinite().all() for value in torch.load(out / "bundle/models/model.pt").values())


@each_bundle("coarse_refined")  # of the others' networks: test_release.py
def test_torchscript_and_onnx_compute_what_the_network_does(bundle, bundle_cwd, tmp_path):
    import onnxruntime

    bundle_cwd(bundle)
    parser = ConfigParser.load_config_files("configs/inference.yaml")
    network = ConfigParser(parser).get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    overrides = {"net_id": "network_def", "config_file": "configs/inference.yaml", "meta_file": "configs/metadata.json",
            "ckpt_file": str(tmp_path / "model.pt")}  # fmt: skip
    ckpt_export(filepath=str(tmp_path / "model.ts"), **overrides)
    formats = json.loads((bundle / "configs/metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    shape = [1, formats["num_channels"], *formats["spatial_shape"]]
    onnx_export(filepath=str(tmp_path / "model.onnx"), input_shape=shape, **overrides)
    image = torch.rand(shape)
    expected = network(image)
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts").eval()(image), expected, atol=1e-4, rtol=1e-4)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-4)
