"""The promises of custom/inference/weight_files.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from custom.inference.weight_files import find, folder


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
    (tmp_path / "models/model.pt").mkdir(parents=True)  # a folder is no file of weights
    with pytest.raises(FileNotFoundError) as error:
        find(tmp_path)
    shipped, trained = tmp_path / "models/model.pt", tmp_path / "eval/bundle/models/model.pt"
    assert str(error.value) == (
        f"no weights: neither {trained} nor {shipped} exists. Train first, or give them with --model_file."
    )


def test_the_run_in_output_dir_is_evaluated_before_the_bundle_itself(tmp_path):
    own = touch(tmp_path / "models/model.pt")
    assert folder(tmp_path, "eval") == str(Path(own).parent)
    run = touch(tmp_path / "eval/bundle/models/model.pt")
    assert folder(tmp_path, "eval") == str(Path(run).parent)


def test_output_dir_may_be_absolute(tmp_path):
    touch(tmp_path / "root/models/model.pt")
    run = touch(tmp_path / "elsewhere/bundle/models/model.pt")
    assert folder(tmp_path / "root", tmp_path / "elsewhere") == str(Path(run).parent)


def test_a_folder_without_model_pt_is_not_evaluated(tmp_path):
    touch(tmp_path / "eval/bundle/models/teacher.pt")
    with pytest.raises(FileNotFoundError) as error:
        folder(tmp_path, "eval")
    assert str(error.value) == (
        f"nothing to evaluate: there is no model.pt in {tmp_path / 'eval/bundle/models'} nor in {tmp_path / 'models'}. "
        "Train first, or give the folder of a run with --output_dir."
    )
