"""What a study's page says is to be done next: commands that may be pasted as they are."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace

import pytest
from conftest import ROOT
from data_sets import nnunet
from finished import BETTER, study
from page_fixtures import words
from saying import says

from custom.study import verdict
from custom.study.__main__ import _parser
from custom.study.next_steps import next_steps
from custom.study.scans import Later, Scans
from custom.study.state import State

PYTHON = shlex.quote(sys.executable)  # the one that runs the study has what it takes


def scans(count: int) -> Scans:
    return Scans([Later(f"s{k}", 0.5, 0.5, 0.5, ()) for k in range(count)])


@pytest.mark.usefixtures("few_pictures")
def test_the_commands_of_the_page_may_be_pasted_where_the_folder_has_blanks(tmp_path):
    folder = tmp_path / "it's my study"
    text = words(verdict.write(study(folder, BETTER)).read_text(encoding="utf-8"))
    quoted, root = shlex.quote(str(folder)), shlex.quote(str(ROOT))
    assert quoted != str(folder)
    bundle, images, out = (shlex.quote(str(folder / name)) for name in ("bundle", "data/images", "segmented"))
    for command in (
        f"cd {root} && make annotate STUDY={quoted}",
        f"cd {root} && {PYTHON} -m custom.study {quoted}",
        f"cd {bundle} && {PYTHON} -m monai.bundle run --config_file configs/inference.yaml "
        f"--dataset_dir {images} --output_dir {out}",
        f"cd {root} && {PYTHON} -m distribution.from_study {quoted} TASK",
    ):
        assert command in text


@pytest.mark.usefixtures("few_pictures")
def test_the_scans_to_correct_are_named_five_at_most_in_the_order_of_the_page(tmp_path):
    made = study(tmp_path, BETTER)
    text = words(verdict.write(made).read_text(encoding="utf-8"))
    says(text, "What to do next", "Correct these first: p09_a, p08_a, p06_a, p07_a in MONAI Label")
    assert next_steps(made, scans(6)).scans == ("s0", "s1", "s2", "s3", "s4")


def test_the_command_that_trains_again_names_the_study_alone_so_that_it_goes_on(tmp_path):
    command = next_steps(study(tmp_path, {}), scans(0)).again
    options = _parser().parse_args(shlex.split(command.partition("-m custom.study ")[2]))
    assert options.folder == tmp_path
    assert options.images is options.labels is options.budget is None


@pytest.mark.usefixtures("few_pictures")
def test_annotation_is_offered_only_where_it_can_show_the_images_else_it_says_why_and_where_labels_go(tmp_path):
    made = study(tmp_path / "study", BETTER)
    assert "make annotate" in verdict.write(made).read_text(encoding="utf-8")
    data_set = nnunet(tmp_path / "set")
    of_data_set = replace(made, settings=replace(made.settings, images=str(data_set), labels=""))
    says(next_steps(of_data_set, scans(1)).annotate, "make annotate", f"STUDY={made.folder}")
    nnunet(data_set, channel_names={"0": "T1", "1": "T2"})
    text = words(verdict.write(of_data_set).read_text(encoding="utf-8"))
    assert "make annotate" not in text
    reason = ("MONAI Label cannot show this study", "2 channels", "T1, T2", "scans of one", "another tool")
    says(text, "Correct these first: p09_a", *reason, f"the folder of labels that {data_set}/dataset.json names.")


def test_of_modalities_and_data_sets_the_links_to_the_unlabelled_scans_are_segmented(tmp_path):
    """Inference takes a folder a channel, or files that hold all channels: neither form is one."""
    made = study(tmp_path, {})
    other = State(tmp_path, replace(made.settings, images={"t1": "/t1"}), made.task, made.trainings)
    links = tmp_path / "work/images/unlabelled"
    assert f"--dataset_dir {links} " in next_steps(other, scans(0)).segment
    links.rename(links.with_name("gone"))
    assert next_steps(other, scans(0)).segment == ""
