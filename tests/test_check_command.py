"""``python -m custom.cohort check``: what is printed, and by which task the scans are judged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cohort_files import (
    IMAGE,
    ONE_CHANNEL,
    SIZE,
    assert_says,
    lump,
    noise,
    write_list,
)
from saying import says

from custom.cohort.__main__ import main
from custom.cohort.data_list import record_path
from custom.cohort.errors import CohortError


def task_file(folder: Path, text: str = "") -> Path:
    (folder / "task.yaml").write_text(text or json.dumps(ONE_CHANNEL))
    return folder / "task.yaml"


def test_the_command_prints_what_there_is_and_keeps_a_record_beside_the_list(good, capsys):
    path, task = write_list(good), task_file(good.folder)
    one = "1 scan of 1 patient"
    counts = {"labelled": "2 scans of 2 patients", "unlabelled": one, "validation": one, "test": one}
    for files in ("9 files read, 0 unchanged", "0 files read, 9 unchanged"):
        main(["check", str(path), "--task", str(task)])
        where, *lines, orientation, last = capsys.readouterr().out.splitlines()
        assert where == str(path)
        for line, (part, scans) in zip(lines, counts.items(), strict=True):
            says(line, part, scans, "16 x 16 x 16 voxels", "1 x 1 x 1 mm")
        says(orientation, "orientation", "5 RAS")
        says(last, "No faults in 5 scans", files)
        assert re.search(r"\(\d+\.\d s; ", last)
    assert record_path(path).is_file()


def test_the_command_without_a_record_leaves_no_file(good, capsys):
    main(["check", str(write_list(good)), "--no-record"])
    assert sorted(p.name for p in good.folder.iterdir()) == ["images", "labels", "list.json"]


def test_the_command_tells_faults_of_the_list_and_of_the_files_at_once(good, capsys):
    good.bytes(IMAGE, lambda b: b[:-90])
    Path(good.parts["test"][0]["label"]).unlink()
    del good.parts["labelled"][0]["label"]
    path = write_list(good)
    with pytest.raises(CohortError) as error:
        main(["check", str(path), "--task", str(task_file(good.folder))])
    assert_says(
        [line.strip() for line in str(error.value).split("\n")],
        f"3 faults in {path}",
        "The list:",
        "labelled, p1: no label",
        f"test, p5: {good.folder}/labels/p5.nii.gz does not exist",
        "Files that cannot be read",
        "labelled, p2: p2.nii.gz is truncated",
    )
    assert "labelled   2 scans of 2 patients: 16 x 16 x 16" in capsys.readouterr().out


@pytest.mark.parametrize("fingerprint", [None, {"channels": ["image"], "label_values": [0, 1]}])
def test_without_a_task_the_command_judges_by_the_fingerprint_or_the_first_scan(good, fingerprint):
    good.write("labels/p1.nii.gz", lump(7))
    good.write("labels/p2.nii.gz", lump(-1, np.int16))
    good.write("images/p3.nii.gz", noise("p3", (*SIZE, 2)))
    with pytest.raises(CohortError) as error:
        main(["check", str(write_list(good, **({"fingerprint": fingerprint} if fingerprint else {})))])
    lines = [line.strip() for line in str(error.value).split("\n")]
    assert any(line.startswith("unlabelled, p3: p3.nii.gz: 2 channels, the task names 1 (image)") for line in lines)
    expected = "the task names 0..1" if fingerprint else "labels are whole numbers from 0"
    assert f"labelled, p2: label p2.nii.gz has the values {{-1, 0}}, {expected}. Remap -1" in lines
    assert any("has the values {0, 7}" in line for line in lines) == bool(fingerprint)


def test_a_list_for_evaluation_alone_needs_no_labelled_scans(good, capsys):
    for part in ("labelled", "unlabelled", "validation"):
        good.parts[part].clear()
    main(["check", str(write_list(good))])
    assert "No faults in 1 scan " in capsys.readouterr().out
    good.parts["test"].clear()
    with pytest.raises(CohortError, match="no labelled scans"):
        main(["check", str(write_list(good))])


@pytest.mark.parametrize("text", ["[1, 2]", "channels: [image]", "channels: image\nclasses: [a, b]", "a: [", "{}"])
def test_what_is_no_task_file_is_refused(good, text):
    with pytest.raises(CohortError, match=r"--task .*task\.yaml"):
        main(["check", str(write_list(good)), "--task", str(task_file(good.folder, text))])
    with pytest.raises(CohortError, match=r"--task .*absent\.yaml cannot be read"):
        main(["check", str(write_list(good)), "--task", str(good.folder / "absent.yaml")])
