"""Pictures of an inference's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from custom.report import predictions, preview

SHAPE = (12, 10, 3)


@pytest.fixture
def case(tmp_path) -> tuple[dict[str, Any], dict[str, Any]]:
    voxels = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([1, 2, 5, 1])), tmp_path / "p01.nii.gz")
    found = torch.zeros(1, *SHAPE)
    found[0, 2:6, 3:8, 1], found[0, 6:8, 3:8, 1] = 205, 600
    image = MetaTensor(torch.zeros(1, 4, 4, 4), meta={"filename_or_obj": str(tmp_path / "p01.nii.gz")})
    return {"image": image}, {"pred": found}


def run(handler: predictions.PredictionPictures, *steps: Any) -> None:
    found = iter(steps)

    def step(engine: Engine, _: Any) -> Any:
        case, output = next(found)
        engine.state.batch = [case]
        return None if output is None else [output]

    engine = Engine(step)
    handler.attach(engine)
    engine.run([0] * len(steps))


@pytest.fixture
def drawn(monkeypatch) -> list[tuple[list[preview.Preview], list[str], str]]:
    calls: list[Any] = []
    monkeypatch.setattr(preview, "write", lambda one, classes, png: calls.append(([one], classes, png.name)))
    monkeypatch.setattr(preview, "write_sheet", lambda many, classes, png: calls.append(([*many], classes, png.name)))
    return calls


def handler(folder: Path, **more: Any) -> predictions.PredictionPictures:
    return predictions.PredictionPictures(folder, ["background", "a", "b"], [0, 205, 600], **more)


def test_values_of_label_files_are_shown_as_classes_and_a_refused_case_not_at_all(case, drawn, tmp_path):
    run(handler(tmp_path), case, (case[0], None))
    assert [name for _, _, name in drawn] == ["p01.png", "all.png"]
    [shown], classes, _ = drawn[0]
    assert classes == ["a", "b"]
    assert shown.title == "p01"
    assert [int((shown.mask == value).sum()) for value in (1, 2)] == [20, 10]
    assert drawn[1][0] == [shown]


def test_a_sheet_holds_so_many_and_every_case_has_its_own_picture(case, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "MOST", 2)
    run(handler(tmp_path), case, case, case)
    assert [len(many) for many, _, _ in drawn] == [1, 1, 1, 2]


def test_nothing_is_drawn_that_was_not_asked_for(case, drawn, tmp_path):
    run(handler(tmp_path, wanted=False), case)
    assert drawn == []
    assert not (tmp_path / "pictures").exists()


def test_files_are_written(case, tmp_path):
    run(handler(tmp_path), case)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["all.png", "p01.png"]


def test_cases_that_an_earlier_run_segmented_are_drawn_with_the_others(case, drawn, tmp_path):
    values = np.zeros(SHAPE, np.uint16)
    values[2:6, 3:8, 1] = 600
    nib.save(nib.Nifti1Image(values, np.diag([1, 2, 5, 1])), tmp_path / "p00_pred.nii.gz")
    nib.save(nib.load(tmp_path / "p01.nii.gz"), tmp_path / "p00.nii.gz")
    kept = [(str(tmp_path / "p00.nii.gz"), tmp_path / "p00_pred.nii.gz")]
    run(handler(tmp_path, kept=kept), case)
    assert [name for _, _, name in drawn] == ["p01.png", "p00.png", "all.png"]
    assert [one.title for one in drawn[-1][0]] == ["p00", "p01"]
    assert int((drawn[1][0][0].mask == 2).sum()) == 20
    drawn.clear()
    handler(tmp_path, kept=kept).finish()  # nothing was left to segment
    assert [name for _, _, name in drawn] == ["p00.png", "all.png"]
    handler(tmp_path, kept=kept, wanted=False).finish()
    assert len(drawn) == 2


@pytest.fixture
def height(tmp_path):
    """``height(shapes, classes)``: pixels of the sheet of such pictures."""

    def measured(shapes: list[tuple[int, int]], classes: list[str]) -> int:
        shown = [preview.Preview("p", np.zeros((y, x)), np.ones((x, y), np.uint8), 1.0) for x, y in shapes]
        preview.write_sheet(shown, classes, tmp_path / "all.png")
        return Image.open(tmp_path / "all.png").height

    return measured


def test_a_row_of_flat_pictures_takes_their_height_alone(height):
    tall, flat = [(10, 12)] * 6, [(10, 6)] * 6
    assert height(tall + tall, ["a"]) - height(tall + flat, ["a"]) == pytest.approx(2 * 110 * 0.6, abs=1)


def test_a_legend_of_several_lines_has_room(height):
    lines = [height([(10, 12)], ["a long name"] * number) for number in (1, 2, 3)]
    assert lines[1] - lines[0] == lines[2] - lines[1] == 22
