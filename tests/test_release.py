"""A release, judged by what comes out of its archives: files, MONAI's checks, the same answers, the same bytes."""

from __future__ import annotations

import ast
import hashlib
import json
import ntpath
import os
import posixpath
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc import ErrorDuringImport
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from jsonschema import validate
from monai.bundle import ConfigParser, ConfigWorkflow, load, verify_metadata, verify_net_in_out
from small_card import small_card
from test_bundle_runs import copy_images
from test_bundles import SCHEMA

from custom.run.bundle import OF_ALL_BUNDLES
from distribution import build as release
from distribution.assemble import INITIALIZE, assemble, packages
from distribution.cards import CardError, card
from distribution.packing import digest

# 2D; two networks, a modality each; a network of its own, 3D
METHODS = ("mean_teacher", "contrastive_mutual", "task_affinity")
QUICK = METHODS[:2]


def of_methods(*quick: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "method", [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in METHODS]
    )


each = of_methods(*QUICK)
plain = of_methods("mean_teacher")  # where the networks make no difference to what is looked at


class Release:
    """A built ``dist``, its archives unpacked."""

    def __init__(self, folder: Path, methods: Iterable[str]) -> None:
        self.pretrained, self.dist, self.unpacked = folder / "pretrained", folder / "dist", folder / "unpacked"
        self.cards = {method: small_card(self.pretrained, method) for method in methods}
        self.archives = release.build(dist=self.dist, base_url="https://host/x/", folder=self.pretrained)
        for path in self.archives:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(self.unpacked)

    def bundle(self, method: str) -> Path:
        return self.unpacked / self.cards[method].name


@pytest.fixture(scope="module")
def made(tmp_path_factory, request) -> Release:
    """The methods that some test to run looks at: building one takes some ten seconds."""
    wanted = {getattr(item, "callspec", None) and item.callspec.params.get("method") for item in request.session.items}
    return Release(tmp_path_factory.mktemp("release"), [m for m in METHODS if m in wanted or m in QUICK])


@pytest.fixture
def outside(monkeypatch, tmp_path):
    """Another folder, with no bundle's ``scripts`` imported or to be found; as it was before, afterwards."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "scripts").is_dir()])
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]


def loaded(bundle: Path) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parsing config_file")
        return load(bundle.name, bundle_dir=bundle.parent, device="cpu").eval()


def image_of(bundle: Path) -> torch.Tensor:
    """A random patch, as metadata.json describes it."""
    image = json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))["network_data_format"]["inputs"][
        "image"
    ]
    return torch.rand(1, image["num_channels"], *image["spatial_shape"], generator=torch.Generator().manual_seed(0))


# the folder that a build leaves


def test_dist_holds_the_archives_and_what_says_which_bytes_they_are(made):
    names = [f"{one.release}.zip" for one in made.cards.values()]
    assert sorted(path.name for path in made.dist.iterdir()) == sorted([*names, "SHA256SUMS", "model_info.json"])
    info = json.loads((made.dist / "model_info.json").read_text(encoding="utf-8"))
    for one in made.cards.values():
        content = (made.dist / f"{one.release}.zip").read_bytes()
        checksum = hashlib.sha1(content).hexdigest()
        assert info[one.release] == {"checksum": checksum, "source": f"https://host/x/{one.release}.zip"}
        assert f"{hashlib.sha256(content).hexdigest()}  {one.release}.zip\n" in (made.dist / "SHA256SUMS").read_text(
            encoding="utf-8"
        )
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made.dist).returncode == 0


def test_an_archive_has_one_top_folder_one_date_and_no_compiled_python(made):
    for path in made.archives:
        entries = zipfile.ZipFile(path).infolist()
        assert {entry.filename.split("/")[0] for entry in entries} == {path.name.partition("_v")[0]}
        assert {(entry.date_time, entry.external_attr >> 16) for entry in entries} == {
            ((1980, 1, 1, 0, 0, 0), 0o100644)
        }
        assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
        assert not [entry.filename for entry in entries if "__pycache__" in entry.filename]


@each
def test_every_file_is_there(made, method):
    bundle = made.bundle(method)
    found = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    configs = ("train.yaml", "inference.yaml", "train.json", "inference.json", "evaluate.yaml", "multi_gpu_train.yaml",
               "metadata.json", "logging.conf", "published.yaml")  # fmt: skip
    models = [*made.cards[method].weights, "model.ts", "model.onnx"]
    expected = {*(f"configs/{name}" for name in configs), *(f"models/{name}" for name in models), "LICENSE",
                "docs/README.md", "docs/data_license.txt"}  # fmt: skip
    assert {name for name in found if not name.startswith("scripts/")} == expected
    parts = {
        p.relative_to(ROOT / "custom").as_posix()
        for p in (ROOT / "custom").rglob("*.*")
        if p.suffix in (".py", ".html") and OF_ALL_BUNDLES not in p.parts
    }
    assert {name.removeprefix("scripts/") for name in found if name.startswith("scripts/")} == parts, "no other tasks"
    for name, expected in made.cards[method].weights.items():
        assert digest(bundle / "models" / name) == expected


@plain
def test_the_json_twins_say_what_the_yaml_says(made, method):
    for name in ("train", "inference"):
        twins = [
            ConfigParser.load_config_file(str(made.bundle(method) / f"configs/{name}.{kind}"))
            for kind in ("json", "yaml")
        ]
        assert twins[0] == twins[1]


@each
def test_the_documents_tell_no_command_that_is_not_there(made, method):
    """Every path in configs and card exists; what the repository alone has stands under the commands of the training."""
    bundle = made.bundle(method)
    card_text, _, training = (bundle / "docs/README.md").read_text(encoding="utf-8").partition("\n## Training\n")
    training, _, rest = training.partition("SHA-256 of the weights")
    assert "Run in a clone of the repository" in training
    texts = [card_text, rest, *(path.read_text(encoding="utf-8") for path in bundle.glob("configs/*.yaml"))]
    for text in texts:
        assert not re.search(r"scripts/tasks|bundles/|custom[./]|\(\.\./", text)
        for path in re.findall(r"\b(?:configs|scripts|docs)/[\w/]+\.\w+", text):
            assert (bundle / path).is_file(), path
        for module in re.findall(r"python -m (scripts\.\w+)", text):
            place = bundle / module.replace(".", "/")
            assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for fact in ("Dice", "HD95", "0.750 (0.700 to 0.800)", "3.0 (2.0 to 4.0)", "calibration error 0.050", "4 labelled", "60 for",
                 "seed 0", "A first try.", "Anything else.", *made.cards[method].weights.values()):  # fmt: skip
        assert fact in card_text + training + rest, fact
    assert "Apache-2.0" in (bundle / "docs/data_license.txt").read_text(encoding="utf-8")


# MONAI's checks


@each
def test_metadata_follows_the_schema(made, method, monkeypatch, tmp_path):
    path = made.bundle(method) / "configs/metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    validate(metadata, json.loads(SCHEMA.read_text(encoding="utf-8")))
    monkeypatch.setattr("monai.bundle.scripts.download_url", lambda filepath, **_: shutil.copy(SCHEMA, filepath))
    verify_metadata(meta_file=str(path), filepath=str(tmp_path / "schema.json"))
    assert (metadata["name"], metadata["version"]) == (made.cards[method].name, "0.1.0")
    assert metadata["eval_metrics"] == {"dice": 0.75, "hd95_mm": 3.0}


@plain
def test_metadata_names_every_package_that_the_scripts_import(made, method):
    known = {"pyyaml": "yaml", "ruamel.yaml": "ruamel", "itk-io": "itk", "pytorch-ignite": "ignite"}
    brought = {"PIL"}  # by matplotlib
    listed = {known.get(name, name) for name in packages()}
    metadata = json.loads((made.bundle(method) / "configs/metadata.json").read_text(encoding="utf-8"))
    assert metadata["required_packages_version"] == packages()
    imported = set()
    for path in made.bundle(method).glob("scripts/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").split(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"torch", "monai", "numpy"}
    assert others - listed - brought == {"mlflow"}, "tracking is off unless mlflow_uri is set"
    assert "fire" in listed, "python -m monai.bundle"


@each
@pytest.mark.parametrize(("kind", "name"), [("train", "train"), ("infer", "inference")])
def test_monai_finds_every_property(made, method, kind, name, bundle_cwd, phantoms, tmp_path):
    bundle_cwd(made.bundle(method))
    form = made.cards[method].task
    settings = {
        "output_dir": str(tmp_path),
        "dataset_dir": str(phantoms / ("" if kind == "train" else f"{form}/images")),
    }
    for suffix in ("yaml", "json"):
        workflow = ConfigWorkflow(f"configs/{name}.{suffix}", workflow_type=kind, logging_file=False, **settings)
        workflow.initialize()
        assert workflow.check_properties() == []


@each
def test_the_network_takes_and_gives_what_metadata_says(made, method, bundle_cwd):
    bundle_cwd(made.bundle(method))
    for name in ("train.json", "inference.yaml"):
        verify_net_in_out("network_def", meta_file="configs/metadata.json", config_file=f"configs/{name}", device="cpu")


# the network, from outside


@each
def test_monai_loads_the_network_with_its_weights_from_anywhere(made, method, outside):
    bundle = made.bundle(method)
    network = loaded(bundle)
    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(network.state_dict()[key], value) for key, value in weights.items())


@each
def test_torchscript_and_onnx_compute_what_the_state_dict_does(made, method, outside):
    import onnxruntime

    bundle = made.bundle(method)
    image = image_of(bundle)
    with torch.no_grad():
        expected = loaded(bundle)(image)
        scripted, metadata, _ = load(bundle.name, bundle_dir=bundle.parent, load_ts_module=True, device="cpu")
        torch.testing.assert_close(scripted.eval()(image), expected, atol=1e-4, rtol=0)
    assert metadata["name"] == bundle.name
    session = onnxruntime.InferenceSession(bundle / "models/model.onnx")
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=0)


def test_bundles_in_one_process_run_their_own_code_and_weights(made, outside):
    """Networks side by side; the code of each is that of its folder, whichever was loaded before."""
    networks = {method: loaded(made.bundle(method)) for method in (*made.cards, METHODS[0])}
    for method, network in networks.items():
        assert Path(type(network).forward.__code__.co_filename).is_relative_to(made.bundle(method) / "scripts")
        scripted = torch.jit.load(made.bundle(method) / "models/model.ts").eval()
        image = image_of(made.bundle(method))
        with torch.no_grad():
            torch.testing.assert_close(network(image), scripted(image), atol=1e-4, rtol=0)


def test_a_workflow_runs_its_own_code_though_another_was_made_after_it(made, outside, phantoms, tmp_path):
    images = copy_images(phantoms / "phantom_2d", tmp_path / "images", 1)
    shutil.copytree(made.bundle("mean_teacher"), tmp_path / "changed")
    writer = tmp_path / "changed/scripts/inference/writer.py"
    writer.write_text(writer.read_text(encoding="utf-8") + "\nraise ImportError('of another bundle')\n")
    workflows = []
    for bundle in (made.bundle("mean_teacher"), tmp_path / "changed"):
        settings = {"bundle_root": str(bundle), "dataset_dir": str(images), "output_dir": str(tmp_path / "preds")}
        config = str(bundle / "configs/inference.yaml")
        workflows.append(ConfigWorkflow(config, workflow_type="infer", logging_file=False, **settings))
        workflows[-1].initialize()
    workflows[0].run()
    assert len(list((tmp_path / "preds").glob("*_pred.*"))) == 1
    with pytest.raises(ErrorDuringImport, match="of another bundle"):
        workflows[1].run()


# inference, evaluation and training as unpacked


@each
def test_inference_is_that_of_the_repository(made, method, run_bundle, phantoms, tmp_path):
    one, images = made.cards[method], copy_images(phantoms / made.cards[method].task, tmp_path / "images", 1)
    settings = {"dataset_dir": str(images)}
    run_bundle(made.bundle(method), "run", "configs/inference.yaml", **settings, output_dir=str(tmp_path / "released"))
    tree = ROOT / "bundles" / method
    own = yaml.safe_load((tree / "configs/inference.yaml").read_text(encoding="utf-8"))
    settings |= {key: value for key, value in one.overrides.items() if key in own}
    for folder, files in (("models", one.models.glob("*.pt")), ("configs", [tree / "configs/metadata.json"])):
        (tmp_path / "around" / folder).mkdir(parents=True)  # weights of one modality stand in a bundle that names them
        for file in files:
            shutil.copy(file, tmp_path / "around" / folder)
    run_bundle(tree, "run", "configs/inference.yaml", **settings,
               model_file=str(tmp_path / "around/models/model.pt"), output_dir=str(tmp_path / "tree"))  # fmt: skip
    files = [sorted((tmp_path / name).glob("*_pred.*")) for name in ("released", "tree")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]] != []
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


@pytest.mark.parametrize("paths", [ntpath, posixpath])
def test_scripts_of_another_bundle_are_forgotten_whatever_separates_folders(monkeypatch, paths):
    _, forget = yaml.safe_load(INITIALIZE)["initialize"]
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        monkeypatch.delitem(sys.modules, name)
    for name, root in (("scripts.own", "own"), ("scripts.other", "other")):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__file__=paths.join(root, "scripts", "a.py")))
    monkeypatch.setattr(sys, "path", ["own", *sys.path])
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", paths)
        eval(forget.removeprefix("$"))  # noqa: S307
    assert [name for name in sys.modules if name.split(".")[0] == "scripts"] == ["scripts.own"]


@plain
def test_training_and_evaluation_work_as_unpacked(made, method, run_bundle):
    """Nothing is overridden except where the data lie. What was trained keeps no JSON twin that would go stale."""
    out = run_bundle(made.bundle(method))
    assert (out / "last_0002.pt").exists()
    run_bundle(made.bundle(method), "run", ["configs/train.yaml", "configs/evaluate.yaml"])
    assert (out / "evaluation/test/model.csv").exists()
    assert sorted(path.name for path in (out / "bundle/configs").glob("*.json")) == ["metadata.json"]
    if method == "mean_teacher":  # the bundle of a run from a release trains on
        assert (run_bundle(out / "bundle", output_dir=str(out.parent / "again")) / "bundle/models/model.pt").exists()


def test_the_commands_work_in_the_unpacked_folder(made, phantoms, tmp_path):
    """Run as a user types them, with no repository on the path."""
    bundle = tmp_path / "phantom_2d_mean_teacher"
    shutil.copytree(made.bundle("mean_teacher"), bundle)
    images = copy_images(phantoms / "phantom_2d", tmp_path / "images", 1)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    done = subprocess.run(
        [*command, "--dataset_dir", str(images)], cwd=bundle, capture_output=True, encoding="utf-8", errors="replace"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((bundle / "eval/predictions").glob("*_pred.*"))) == 1


def test_a_task_of_real_scans_asks_for_a_list_in_data(tmp_path, run_bundle):
    """Its data are not shipped: lists and images have a place in the folder, and the error says what to give."""
    bundle = assemble(small_card(tmp_path, "mean_teacher", "hippocampus"), tmp_path / "unpacked")
    metadata = json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))
    assert metadata["label_classes"] == "single channel, 0 background, 1 anterior, 2 posterior"
    assert metadata["pred_classes"] == "logits of background, anterior, posterior"
    inference = yaml.safe_load((bundle / "configs/inference.yaml").read_text(encoding="utf-8"))
    assert (inference["dataset_dir"], inference["classes"]) == (
        "$@bundle_root + '/data/images'",
        ["background", "anterior", "posterior"],
    )
    with pytest.raises(RuntimeError) as error:
        run_bundle(bundle)
    expected = f"data_list {bundle}/data/list.json does not exist. Give a list with --data_list"
    assert expected in "".join(str(e) for e in causes(error.value))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


# a build again, and builds that are refused


@pytest.mark.slow
def test_built_in_another_clone_the_bytes_are_the_same(made, tmp_path):
    """Another folder, another process, one bundle of three: nothing of these is in the bytes."""
    clone = tmp_path / "elsewhere/clone"
    for name in ("distribution", "custom", "bundles/mean_teacher"):
        shutil.copytree(
            ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "data", "eval")
        )
    shutil.copy(ROOT / "requirements.txt", clone)
    shutil.rmtree(clone / "distribution/pretrained", ignore_errors=True)
    shutil.copytree(made.pretrained, clone / "distribution/pretrained")
    name = made.cards["mean_teacher"].name
    command = [sys.executable, "-m", "distribution.build", name, "--base-url", "https://host/x"]
    done = subprocess.run(command, cwd=clone, capture_output=True, encoding="utf-8", errors="replace")
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (zipfile.ZipFile(dist / f"{name}_v0.1.0.zip") for dist in (made.dist, clone / "dist"))
    differing = [entry for entry in first.namelist() if first.read(entry) != second.read(entry)]
    assert (differing, first.namelist()) == ([], second.namelist())
    assert Path(first.filename).read_bytes() == Path(second.filename).read_bytes()
    assert str(clone).encode() not in Path(second.filename).read_bytes()


@pytest.mark.fault("9", "weights that are not the card's, at the build of a release")
def test_a_refused_build_leaves_the_release_before_it(made, tmp_path):
    shutil.copytree(made.pretrained, tmp_path / "pretrained")
    one = card(made.cards["mean_teacher"].name, tmp_path / "pretrained")
    with one.files[0].open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    before = {path.name: path.read_bytes() for path in made.dist.iterdir()}
    with pytest.raises(CardError, match=r"model\.pt: sha256 is \w+, expected \w+\. Nothing was built\."):
        release.build(dist=made.dist, folder=tmp_path / "pretrained")
    assert {path.name: path.read_bytes() for path in made.dist.iterdir()} == before
    with pytest.raises(CardError, match=r"Nothing was built\."):
        assemble(one, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_an_export_that_fails_leaves_nothing(made, tmp_path, monkeypatch):
    def fail(folders: list[Path]) -> None:
        raise CardError("cannot be exported")

    monkeypatch.setattr(release, "export", fail)
    with pytest.raises(CardError, match="cannot be exported"):
        release.build(dist=tmp_path / "dist", folder=made.pretrained)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_not_replaced(made, tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(CardError, match=r"holds what no release made \(thesis\.tex\) and would be lost"):
        release.build(dist=tmp_path, folder=made.pretrained)
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "years"


def test_a_build_says_the_commit_and_whether_files_differ_from_it(monkeypatch, tmp_path):
    monkeypatch.setattr(release, "ROOT", tmp_path)
    assert release.state_of_tree() == "no git here: which commit this is cannot be said"
    commit = ["-c", "user.name=a", "-c", "user.email=b", "commit", "--quiet", "--allow-empty", "-m", "c"]
    for words in (["init", "--quiet"], commit):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert re.fullmatch(r"commit [0-9a-f]{40}", release.state_of_tree())
    (tmp_path / "new.py").write_text("")
    assert re.fullmatch(r"commit [0-9a-f]{40}, dirty: 1 files differ from it \(new\.py\)", release.state_of_tree())
