"""What is refused before a server starts, and what the work folder becomes."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import yaml
from annotation_server import ROOT, TINY
from PIL import Image
from saying import raises

from annotate.models import StartError, learnt_by, model_name, recommended, untrained
from annotate.start import (
    default_work,
    environment,
    instructions,
    is_loopback,
    judge_address,
    judge_studies,
    main,
    prepare,
)
from annotate.versions import Versions
from custom.errors import MissingPackages

TASK = ROOT / "custom/tasks/phantom_2d.yaml"


@pytest.fixture
def studies(tmp_path: Path, phantoms: Path) -> Path:
    shutil.copytree(phantoms / "phantom_2d/images", tmp_path / "studies")
    return tmp_path / "studies"


def finished(folder: Path, content: bytes = b"weights") -> Path:
    """What a training leaves: a bundle with two networks, and their final weights."""
    untrained("mean_teacher", str(TASK), folder)
    (folder / "models").mkdir()
    for name in ("model", "student", "model_final"):
        (folder / f"models/{name}.pt").write_bytes(content + name.encode())
    return folder


def test_a_scan_that_a_bundle_has_learnt_is_known_where_its_file_has_another_name(tmp_path: Path) -> None:
    bundle, file = finished(tmp_path / "run/bundle"), tmp_path / "set/p1_0000.nii.gz"
    entries = [{"image": str(file), "label": "p1.nii.gz"}, {"image": "p2.nii.gz", "label": "p2.nii.gz"}]
    (tmp_path / "list.json").write_text(json.dumps({"labelled": entries}))
    config = bundle / "configs/train.yaml"
    settings = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**settings, "data_list": str(tmp_path / "list.json")}))
    assert learnt_by(bundle, {file: "p1"}) == ["p1", "p2"]
    assert learnt_by(bundle, {}) == ["p1_0000", "p2"]


def test_a_finished_bundle_becomes_the_first_version(studies: Path, tmp_path: Path) -> None:
    bundle = finished(tmp_path / "liver_run" / "bundle")
    work, name = prepare(studies, str(bundle), tmp_path / "work")
    versions = Versions(work / "model" / name)
    assert name == "liver_run"
    assert versions.served() == "0001"
    assert sorted(path.name for path in versions.link.iterdir()) == ["model.pt", "student.pt", "version.json"]
    assert versions.record("0001")["source"] == f"as shipped: {bundle}"
    assert [path.name for path in (work / "model").iterdir()] == [name]  # nothing of the making is left


@pytest.mark.parametrize(
    ("listing", "learnt"),
    [
        (
            {"labelled": [{"image": "p1.nii.gz"}, {"image": {"t1": "t1/p2.nii.gz"}}], "test": [{"image": "p3.png"}]},
            ["p1", "p2"],
        ),
        ([], []),
        (None, []),
    ],
)
def test_scans_that_a_bundle_has_learnt_from_never_judge(
    studies: Path, tmp_path: Path, listing: object, learnt: list[str]
) -> None:
    bundle, file = finished(tmp_path / "run" / "bundle"), tmp_path / "list.json"
    if listing is not None:
        file.write_text(json.dumps(listing))
    config = yaml.safe_load((bundle / "configs/train.yaml").read_text(encoding="utf-8"))
    (bundle / "configs/train.yaml").write_text(yaml.safe_dump({**config, "data_list": str(file)}))
    work, name = prepare(studies, str(bundle), tmp_path / "work")
    assert Versions(work / "model" / name).learnt() == set(learnt)


@pytest.mark.fault("36", "the annotation server started without MONAI Label, before its work folder is made")
def test_without_monai_label_nothing_is_prepared(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises(MissingPackages, "this Python (", "no monailabel", "make annotate STUDIES=DIR (or STUDY=DIR)"):
        main(["--studies", str(studies), "--model", f"mean_teacher:{TASK}", "--work", str(tmp_path / "work")])
    assert not (tmp_path / "work").exists()


def test_pictures_that_slicer_shows_otherwise_than_viewers_are_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    for name, exif[274] in (("a.jpg", 1), ("b.jpg", 6)):
        Image.new("L", (8, 6)).save(tmp_path / name, exif=exif)
    with raises(StartError, "1 of 2 pictures", "not upright", "b.jpg says in EXIF", "Save it upright"):
        judge_studies(tmp_path)


def test_a_background_that_slicer_would_show_as_a_segment_is_refused(studies: Path, tmp_path: Path) -> None:
    task = {**yaml.safe_load(TASK.read_text()), "label_values": [9, 1, 2, 3]}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(task))
    with raises(StartError, "label_values [9, 1, 2, 3]", "takes 0 for the background", "Choose"):
        prepare(studies, f"mean_teacher:{tmp_path / 'odd.yaml'}", tmp_path / "work")


def test_another_model_of_the_same_name_is_not_taken_for_the_first(studies: Path, tmp_path: Path) -> None:
    first, second = (finished(tmp_path / place / "run" / "bundle", place.encode()) for place in ("a", "b"))
    prepare(studies, str(first), tmp_path / "work")
    with pytest.raises(
        StartError, match=r"was made from another model \(as shipped: .*a/run/bundle\).*Give --work another"
    ):
        prepare(studies, str(second), tmp_path / "work")


def test_new_weights_of_the_same_model_are_said_and_not_taken(
    studies: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bundle = finished(tmp_path / "run" / "bundle")
    work, name = prepare(studies, str(bundle), tmp_path / "work")
    before = Versions(work / "model" / name).record("0001")
    (bundle / "models/model.pt").write_bytes(b"trained on")
    prepare(studies, str(bundle), tmp_path / "work")
    assert "has other weights now than" in capsys.readouterr().out
    assert Versions(work / "model" / name).record("0001") == before


def test_a_restart_keeps_the_weights_that_were_trained_since(studies: Path, tmp_path: Path) -> None:
    bundle = finished(tmp_path / "run" / "bundle")
    work, name = prepare(studies, str(bundle), tmp_path / "work")
    versions = Versions(work / "model" / name)
    (tmp_path / "new.pt").write_bytes(b"trained since")
    versions.serve(versions.add({"model": tmp_path / "new.pt"}))
    prepare(studies, str(bundle), tmp_path / "work")
    assert (work / "model" / name / "models/model.pt").read_bytes() == b"trained since"


def test_an_untrained_start_has_the_task_merged_in_and_no_weights(studies: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**yaml.safe_load(TASK.read_text()), **TINY}))
    work, name = prepare(studies, f"mean_teacher:{tmp_path / 'tiny.yaml'}", tmp_path / "work")
    config = yaml.safe_load((work / "model" / name / "configs/train.yaml").read_text())
    assert name == "mean_teacher_tiny"
    assert config["widths"] == TINY["widths"]
    assert Versions(work / "model" / name).served() is None
    assert not (work / "model" / name / "scripts").is_symlink()


def test_what_fails_leaves_no_half_bundle(studies: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError):
        prepare(studies, f"mean_techer:{TASK}", tmp_path / "work")
    assert list((tmp_path / "work/model").iterdir()) == []


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (f"mean_techer:{TASK}", "no method 'mean_techer' (did you mean 'mean_teacher'?)"),
        ("mean_teacher:nowhere.yaml", "nowhere.yaml does not exist"),
        (
            str(ROOT / "bundles/mean_teacher/configs"),
            "is not a finished bundle: expected configs/inference.yaml and models",
        ),
        (f"mean_teacher:{ROOT / 'custom/tasks/lgg.yaml'}", "reads 2 modalities of a scan"),
        (f"contrastive_mutual:{ROOT / 'custom/tasks/phantom_two_channels.yaml'}", "MONAI Label has one file a scan"),
        (f"mean_teacher:{ROOT / 'custom/tasks/kvasir.yaml'}", "reads 3 modalities of a scan (red, green, blue)"),
    ],
)
def test_a_model_that_cannot_serve_is_refused(studies: Path, tmp_path: Path, model: str, text: str) -> None:
    with pytest.raises(StartError) as error:
        prepare(studies, model, tmp_path / "work")
    assert text in str(error.value)


def test_pictures_are_refused_by_a_model_of_volumes(tmp_path: Path, phantoms: Path) -> None:
    shutil.copytree(phantoms / "phantom_rgb/images", tmp_path / "studies")
    (tmp_path / "grey.yaml").write_text(yaml.safe_dump({**yaml.safe_load(TASK.read_text()), "channels": list("rgb")}))
    with pytest.raises(StartError, match=r"cannot read these studies: .* is a picture of .*, the task wants volumes"):
        prepare(tmp_path / "studies", f"mean_teacher:{tmp_path / 'grey.yaml'}", tmp_path / "work")


def test_studies_must_be_a_flat_folder_of_images(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="is not a folder"):
        judge_studies(tmp_path / "missing")
    with pytest.raises(StartError, match="found none"):
        judge_studies(tmp_path)
    (tmp_path / "p01").mkdir()
    (tmp_path / "p01/a.nii.gz").touch()
    with pytest.raises(StartError, match="1 lie below it or end in capitals: images must lie in DIR itself"):
        judge_studies(tmp_path)
    (tmp_path / "b.nii").touch()
    assert judge_studies(tmp_path) == [tmp_path / "b.nii"]


@pytest.mark.fault("19", "the server killed while it wrote its index")
def test_an_index_that_was_cut_short_is_set_aside_and_a_whole_one_kept(studies: Path, tmp_path: Path) -> None:
    index = studies / "datastore_v2.json"
    for content, kept in (('{"name": "new"}', True), ('{"name": "ne', False), ("", False)):
        index.write_text(content)
        prepare(studies, f"mean_teacher:{TASK}", tmp_path / "work")
        assert index.exists() == kept
    assert (studies / "datastore_v2.json.damaged").read_text() == ""


def test_the_work_folder_may_not_lie_in_the_studies(studies: Path) -> None:
    for work in (studies, studies / "work"):
        with pytest.raises(StartError, match="lies in the studies, which MONAI Label watches"):
            prepare(studies, f"mean_teacher:{TASK}", work)


def test_two_folders_of_one_name_have_two_work_folders() -> None:
    first, second = default_work(Path("/a/studies")), default_work(Path("/b/studies"))
    assert first != second
    assert {path.parent for path in (first, second)} == {ROOT / "annotation"}
    assert default_work(Path("/a/../a/studies")) == first


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_an_address_of_others_needs_a_token(host: str) -> None:
    with pytest.raises(StartError, match="export MONAI_LABEL_TOKEN"):
        judge_address(host, 8000, {})
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    judge_address(host, 0, {})


def test_with_a_token_any_address_may_be_used() -> None:
    judge_address("0.0.0.0", 0, {"MONAI_LABEL_TOKEN": "0123456789abcdef"})


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(StartError, match=r"cannot be used: .*Choose another --port"):
            judge_address("127.0.0.1", other.getsockname()[1], {})


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("hippocampus_mean_teacher", "hippocampus_mean_teacher"),
        ("mean_teacher:custom/tasks/la.yaml", "mean_teacher_la"),
        (str(ROOT / "bundles/mean_teacher"), "mean_teacher"),
    ],
)
def test_a_model_has_a_plain_name(model: str, name: str) -> None:
    assert model_name(model) == name


def test_a_tilde_in_a_model_is_the_home_folder(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``make annotate MODEL=~/task.yaml`` and ``--model=~/bundle`` leave the tilde as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(TASK, tmp_path / "heart.yaml")
    _, name = prepare(studies, "mean_teacher:~/heart.yaml", tmp_path / "work")
    assert name == "mean_teacher_heart"
    finished(tmp_path / "mine")
    _, name = prepare(studies, "~/mine", tmp_path / "other")
    assert name == "mine"
    assert Versions(tmp_path / "other/model/mine").record("0001")["source"] == f"as shipped: {tmp_path / 'mine'}"
    assert prepare(studies, str(tmp_path / "mine"), tmp_path / "other")[1] == "mine"  # the same model


def test_nothing_but_the_switches_goes_into_the_environment(studies: Path, tmp_path: Path) -> None:
    work, name = prepare(studies, f"mean_teacher:{TASK}", tmp_path / "work")
    variables = environment(work, name, "127.0.0.1", 8000)
    assert json.loads(variables["MONAI_LABEL_DATASTORE_FILE_EXT"]) == ["*.nii.gz", "*.nii", "*.nrrd", "*.mha"]
    assert variables["MONAI_LABEL_SESSIONS"] == variables["MONAI_LABEL_AUTO_UPDATE_SCORING"] == "false"
    assert "http://127.0.0.1:8000" in instructions(work, studies, name, "127.0.0.1", 8000)
    assert "1. MONAI Label server: http://127.0.0.1:8000" in instructions(work, studies, name, "127.0.0.1", 8000)
    assert "http://[::1]:8000" in instructions(work, studies, name, "::1", 8000)


def test_with_a_token_it_says_that_slicer_sends_none(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONAI_LABEL_TOKEN", "t" * 20)
    text = instructions(tmp_path, studies, "model", "0.0.0.0", 8000)
    assert "3D Slicer sends none" in text
    assert "Next Sample" not in text


def test_the_recommended_hippocampus_bundle_serves_by_default(tmp_path: Path) -> None:
    from distribution.cards import recommended as of_task

    assert recommended() == of_task("hippocampus").name
