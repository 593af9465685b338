"""The promises of custom/inference/weight_files.py and of custom/run/trained.py."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY, each_bundle
from ignite.engine import Engine
from monai.bundle import ConfigParser, run
from saying import raises, says
from torch import nn
from trained_bundle import CONFIG, WINDOWS, settings_of, trained

from custom.errors import UserError
from custom.evaluation.evaluate import _by_content
from custom.inference.weight_files import (
    InitialWeights,
    LoadWeights,
    WeightsError,
    find,
    folder,
    load_weights,
    trained_alike,
)
from custom.run.config import RunConfig
from custom.run.trained import changed_since_training, check_trained


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def test_the_last_training_goes_before_shipped_weights(tmp_path):
    shipped = touch(tmp_path / "models/model.pt")
    assert find(tmp_path) == shipped
    trained = touch(tmp_path / "eval/bundle/models/model.pt")
    assert find(tmp_path) == find(str(tmp_path)) == trained


def test_another_network_is_found_by_its_name(tmp_path):
    touch(tmp_path / "models/model.pt")
    teacher = touch(tmp_path / "models/teacher.pt")
    assert find(tmp_path, "teacher.pt") == teacher


def test_no_weights_says_where_they_were_looked_for_and_what_to_do(tmp_path):
    (tmp_path / "models/model.pt").mkdir(parents=True)  # a folder is not a file of weights
    shipped, trained = tmp_path / "models/model.pt", tmp_path / "eval/bundle/models/model.pt"
    with raises(FileNotFoundError, "no weights", str(trained), str(shipped), "Train first", "--model_file"):
        find(tmp_path)


def test_the_run_in_output_dir_is_evaluated_before_the_bundle_itself(tmp_path):
    own = touch(tmp_path / "models/model.pt")
    assert folder(tmp_path, "eval") == folder(tmp_path, tmp_path / "eval") == str(Path(own).parent)
    run = touch(tmp_path / "eval/bundle/models/model.pt")
    assert folder(tmp_path, "eval") == str(Path(run).parent)


def test_output_dir_may_be_absolute(tmp_path):
    touch(tmp_path / "root/models/model.pt")
    run = touch(tmp_path / "elsewhere/bundle/models/model.pt")
    assert folder(tmp_path / "root", tmp_path / "elsewhere") == str(Path(run).parent)


def test_a_folder_without_model_pt_is_not_evaluated(tmp_path):
    touch(tmp_path / "eval/bundle/models/teacher.pt")
    found = ("model.pt", str(tmp_path / "eval/bundle/models"), str(tmp_path / "models"))
    with raises(FileNotFoundError, "nothing to evaluate", *found, "Train first", "folder of a run", "--output_dir"):
        folder(tmp_path, "eval")


@pytest.mark.parametrize("own", [True, False])
def test_shipped_weights_are_not_scored_in_the_place_of_a_run_that_is_not_there(tmp_path, own):
    """The tables of a folder that is misspelt, or whose training has not begun, would be of other weights."""
    if own:
        touch(tmp_path / "models/model.pt")
    (tmp_path / "runs/b").mkdir(parents=True)
    for name, found in (("a", "nothing, it does not exist"), ("b", "no run")):
        given = f"--output_dir {tmp_path / 'runs' / name}"
        remedy = ("expected bundle/models/model.pt", "output_dir of a run", "train into it first")
        with raises(FileNotFoundError, "nothing to evaluate", given, found, *remedy) as error:
            folder(tmp_path, f"runs/{name}")
        assert (f"own weights add --models_dir {tmp_path / 'models'}" in str(error.value)) == own


@pytest.fixture
def away(tmp_path, bundle_cwd, monkeypatch):
    """A bundle, and another folder that a command runs in; returns the bundle's configs."""
    bundle = shutil.copytree(ROOT / "bundles/mean_teacher", tmp_path / "b", symlinks=True)
    (bundle / "scripts").unlink()
    bundle_cwd(ROOT / "bundles/mean_teacher")  # whose scripts are found
    monkeypatch.chdir(tmp_path)
    return bundle / "configs"


@pytest.mark.parametrize("files", [["inference.yaml"], ["train.yaml", "evaluate.yaml"]])
def test_a_config_that_is_called_from_elsewhere_says_which_bundle_has_its_weights(tmp_path, away, files):
    with pytest.raises(RuntimeError) as error:
        run(config_file=[str(away / name) for name in files], run_id="run", logging_file=False)
    causes = []
    cause: BaseException | None = error.value
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    (text,) = {str(cause) for cause in causes if type(cause).__name__ == "NoWeights"}
    here = tmp_path / "eval/bundle/models"
    assert str(here) in text
    assert f" {away.parent}, which the config file belongs to, has weights: cd {away.parent}, or --bundle_root " in text


# files that are damaged, or no weights


def flipped(folder: Path, **weights: torch.Tensor) -> Path:
    """A bit of the last tensor is another: torch reads the file without a word."""
    torch.save(weights, folder / "w.pt")
    content = (folder / "w.pt").read_bytes()
    place = content.rindex(next(reversed(weights.values())).numpy().tobytes())
    (folder / "w.pt").write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
    return folder / "w.pt"


def half(folder: Path) -> Path:
    torch.save({"weight": torch.ones(1, 1)}, folder / "w.pt")
    content = (folder / "w.pt").read_bytes()
    (folder / "w.pt").write_bytes(content[: len(content) // 2])
    return folder / "w.pt"


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "w.pt")
    return folder / "w.pt"


class Code:
    def __reduce__(self) -> tuple:
        return (print, ("this ran",))


def other_bytes(folder: Path, content: bytes) -> Path:
    (folder / "w.pt").write_bytes(content)
    return folder / "w.pt"


ONES = {"weight": torch.ones(1, 1), "bias": torch.ones(1)}
BAD = {
    "a flipped bit": (lambda f: flipped(f, **ONES), r"a damaged file \(the checksum of w/data/1 is wrong\); .* Copy the"),
    "half of it": (half, r"a file that is cut short; .* Copy the file once more"),
    "nothing": (lambda f: other_bytes(f, b""), r"an empty file; .* Copy the file once more"),
    "a text": (lambda f: other_bytes(f, b"weights"), r"no file of torch\.save; .* Give the model\.pt of a finished"),
    "code": (lambda f: saved(f, {"weight": Code()}), r"print beside tensors, and ran nothing of it; .* Give the model"),
    "a checkpoint": (lambda f: saved(f, {"epoch": 3, "state_dict": ONES}),
                     r"other things than tensors, under 'epoch', 'state_dict'; .* network\.state_dict\(\) gives, alone"),
    "a list": (lambda f: saved(f, [1]), "a list; expected names and tensors, as a training writes models/model.pt"),
    "NaN": (lambda f: saved(f, {**ONES, "bias": torch.tensor([torch.nan]).half()}),
            r"numbers that are not finite in 1 of 2 tensors: bias; .* Take weights of an earlier moment, or train anew"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_files_that_are_damaged_or_no_weights_are_refused_by_name(tmp_path, what, capsys):
    make, text = BAD[what]
    bundle = trained(tmp_path / "b").parent
    file = make(tmp_path).replace(bundle / "models/w.pt")
    network = nn.Linear(1, 1)
    engine = Engine(lambda *_: None)
    LoadWeights(network, file).attach(engine)
    for call in (lambda: engine.run([0]), lambda: trained_alike(bundle, "models/w.pt", settings_of()),
                 lambda: _by_content([file])):  # fmt: skip
        with pytest.raises(WeightsError, match=f"^the weights {file}: found {text}"):
            call()
    assert capsys.readouterr().out == ""


def test_weights_that_fit_are_loaded_when_the_run_starts(tmp_path):
    network, engine = nn.Linear(1, 1), Engine(lambda *_: None)
    LoadWeights(network, saved(tmp_path, ONES)).attach(engine)
    engine.run([0])
    assert network(torch.ones(1, 1)).item() == 2


def test_weights_of_an_older_form_of_torch_have_no_checksum_and_are_read(tmp_path):
    torch.save(ONES, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    load_weights(nn.Linear(1, 1), tmp_path / "w.pt")


def test_weights_of_another_network_say_what_is_missing_and_what_is_of_another_shape(tmp_path):
    file = saved(tmp_path, {"weight": torch.ones(2, 1), "scale": torch.ones(1)})
    found = ("missing bias", "unexpected scale", "size mismatch", "weight [2, 1]", "[1, 1]")
    settings = ("widths", "channels", "classes", "dimensions", "norm")
    with raises(WeightsError, str(file), "network_def", *found, "Set", *settings, "training", "cd OUTPUT_DIR/bundle"):
        load_weights(nn.Linear(1, 1), file)


# the settings that weights were trained under


@pytest.mark.parametrize(
    ("now", "text"),
    [
        ({"spacing_mm": [3, 3, -1]}, "trained with spacing_mm=[1.5, 1.5, -1], this config has [3, 3, -1]"),
        ({"label_values": [0, 255]}, "trained with label_values=[0, 1], this config has [0, 255]"),
        ({"orientation": "LPS"}, "trained with orientation='RAS', this config has 'LPS'"),
        ({"channels": ["flair"]}, "trained with channels::0='image', this config has 'flair'"),
    ],
)
def test_inference_refuses_weights_that_were_trained_otherwise(tmp_path, monkeypatch, now, text):
    monkeypatch.chdir(tmp_path)
    file = trained(tmp_path / "eval/bundle") / "model.pt"
    with pytest.raises(UserError) as caught:
        trained_alike(tmp_path, file, settings_of(**now))
    first, *found, remedy = str(caught.value).splitlines()
    assert (
        first == f"These networks were not trained under this config ({tmp_path / 'eval/bundle/configs/train.yaml'}):"
    )
    assert found == [f"  {text}"]
    says(remedy, "same task and overrides as the training", "cd eval/bundle")


def test_weights_of_an_older_form_lack_what_a_task_says_now(tmp_path):
    """A bundle that was trained before a key was there did without what it says."""
    older = {name: value for name, value in CONFIG.items() if name != "orientation"}
    models = trained(tmp_path)
    (tmp_path / "configs/train.yaml").write_text(str(older))
    with pytest.raises(UserError, match="trained with orientation absent, this config has 'RAS'"):
        trained_alike(tmp_path, models / "model.pt", settings_of())


def test_weights_that_came_with_the_bundle_say_to_train_first(tmp_path):
    models = trained(tmp_path)
    with raises(UserError, "\nGive the same task and overrides", "train with these settings first") as caught:
        trained_alike(tmp_path, models / "model.pt", settings_of(bundle_root=str(tmp_path), spacing_mm=[3, 3, -1]))
    assert "cd " not in str(caught.value)


@pytest.mark.fault("8a", "of weights")
@pytest.mark.parametrize("given", ["absolute", "below the bundle"])
def test_weights_that_are_named_and_not_there_are_told_as_what_they_are(tmp_path, given):
    models = trained(tmp_path)
    name = str(models / "model.pt") if given == "absolute" else "models/model.pt"
    start = InitialWeights(name, tmp_path, [nn.Identity()])
    (models / "model.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for called in (lambda: trained_alike(tmp_path, name, settings_of()), start._load):
        with pytest.raises(UserError, match=rf"^the weights {models}/model.pt: this is a pointer of Git LFS, not the"):
            called()
    (models / "model.pt").unlink()
    (models / "model.pt").symlink_to(".git/annex/objects/x/model.pt")
    for called in (lambda: trained_alike(tmp_path, name, settings_of()),
                   InitialWeights(name, tmp_path, [nn.Identity()])._load):  # fmt: skip
        with pytest.raises(UserError, match=rf"^the weights {models}/model.pt: this is a link of git-annex whose"):
            called()
    (models / "model.pt").unlink()
    with pytest.raises(UserError, match=rf"^no weights: {models}/model.pt does not exist. Give a file of weights with"):
        trained_alike(tmp_path, name, settings_of())


@pytest.mark.parametrize(("store", "lies"), [(".git/annex/objects/a/m/model.pt", "b"), ("run/models/model.pt", "run")])
def test_the_bundle_of_weights_is_around_the_file_and_not_around_the_store_of_git_annex(tmp_path, store, lies):
    for name in ("b", "run"):
        (trained(tmp_path / name, spacing_mm=[3, 3, -1]) / "model.pt").unlink()
    (tmp_path / store).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / store).touch()
    (tmp_path / "b/models/model.pt").symlink_to(tmp_path / store)
    with pytest.raises(UserError, match=rf"not trained under this config \({tmp_path}/{lies}/configs/train\.yaml"):
        trained_alike(tmp_path, "b/models/model.pt", settings_of())


@pytest.mark.parametrize(
    "now",
    [
        {},
        {"seed": 1, "patch": [32, 32], "dropout": [0.5], "data_list": "other.json"},
        {"inferer": {**WINDOWS, "sw_batch_size": 1}},
    ],
)
def test_settings_that_decide_nothing_may_differ(tmp_path, now):
    check_trained(trained(tmp_path).parent, settings_of(**now))


def test_the_windows_of_an_inference_are_free(tmp_path):
    """Memory decides them there; an evaluation compares them."""
    models = trained(tmp_path)
    now = settings_of(inferer={**WINDOWS, "roi_size": [32, 32], "overlap": 0.5, "mode": "gaussian"})
    assert trained_alike(tmp_path, "models/model.pt", now) == models / "model.pt"
    with pytest.raises(
        UserError, match="trained with inferer::_target_='SlidingWindowInferer', this config has 'Slice"
    ):
        trained_alike(tmp_path, models / "model.pt", settings_of(inferer={**WINDOWS, "_target_": "SliceInferer"}))


def test_weights_without_a_bundle_are_compared_with_nothing_and_the_log_says_so(tmp_path, caplog):
    check_trained(tmp_path, settings_of(spacing_mm=[3, 3, -1]))
    says(caplog.text, str(tmp_path), "nothing of a training", "weights fit these settings", "not checked")


@each_bundle()
@pytest.mark.parametrize("task", [None, *sorted(path.name for path in (ROOT / "custom/tasks").glob("*.yaml"))])
def test_inference_has_the_settings_of_the_training_under_every_task(bundle, task, tmp_path):
    """The same overlay on both files: nothing differs that would be refused."""
    train, inference = (_config(bundle, name, task) for name in ("train.yaml", "inference.yaml"))
    trained(tmp_path, **train.config)
    assert changed_since_training(tmp_path, inference) == []


def _config(bundle: Path, name: str, task: str | None) -> RunConfig:
    files = [bundle / "configs" / name, *([bundle / "scripts/tasks" / task] if task else [])]
    return RunConfig(ConfigParser(ConfigParser.load_config_files([str(file) for file in files])))


def test_inference_through_the_config_compares(run_bundle, finished, phantoms, tmp_path):
    """Weights of a run, in a bundle with other settings: refused before an image is read; with the same ones they serve."""
    model = finished("supervised", tmp_path / "run") / "bundle/models/model.pt"
    (tmp_path / "images").mkdir()
    shutil.copy(next(iter(sorted((phantoms / "phantom_2d/images").iterdir()))), tmp_path / "images")
    same: dict[str, Any] = {"dataset_dir": str(tmp_path / "images"), "model_file": str(model)}
    same |= {name: TINY[name] for name in ("widths", "dropout")}
    bundle = ROOT / "bundles/supervised"
    with pytest.raises(RuntimeError) as error:
        run_bundle(bundle, "run", "configs/inference.yaml", **same, spacing_mm=[3, 3, -1])
    cause = error.value.__cause__
    assert "  trained with spacing_mm=[1.5, 1.5, -1], this config has [3, 3, -1]" in str(cause).splitlines()
    assert not (tmp_path / "out").exists()
    out = run_bundle(bundle, "run", "configs/inference.yaml", **same)
    assert len(list(out.glob("*_pred.*"))) == 1


def test_weights_to_start_from_may_be_trained_otherwise_and_the_log_says_how(tmp_path, caplog):
    network, models = nn.Linear(1, 1), trained(tmp_path)
    torch.save(network.state_dict(), models / "model.pt")
    config = settings_of(spacing_mm=[3, 3, -1], label_values=[0, 255], inferer={**WINDOWS, "overlap": 0.5})
    engine = Engine(lambda *_: None)
    InitialWeights("models/model.pt", tmp_path, [network], config=config).attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run([0])
    (text,) = (record.getMessage() for record in caplog.records if record.name.startswith("custom"))
    first, *lines = text.splitlines()
    says(first, "weights to start from", "other settings", f"({tmp_path})")
    assert lines == ["  trained with spacing_mm=[1.5, 1.5, -1], this config has [3, 3, -1]"]
