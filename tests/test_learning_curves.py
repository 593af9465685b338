"""The promises of custom/report/learning_curves.py."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from custom.report.learning_curves import learning_curves, learning_figure
from custom.report.palette import LINE_COLOURS, WARNING


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_metrics(path: Path, epochs: int = 12, every: int = 3, **more: Any) -> Path:
    """A run in which the consistency weight ramps up and validation happens every third epoch."""
    rows = []
    for epoch in range(1, epochs + 1):
        t = epoch / epochs
        row = {
            "epoch": epoch, "step": 10 * epoch, "seconds": 3.0 * epoch, "learning_rate": 0.01 * (1 - t),
            "term/supervised": math.exp(-t), "weight/supervised": 1.0,
            "term/consistency": 0.01 * t, "weight/consistency": 0.1 * t, "watch/confident": 0.5 + 0.4 * t,
        }  # fmt: skip
        for network in ("student", "teacher"):
            for name, dice in (("mean", 0.8), ("RV", 0.7), ("LV", 0.9)):
                row[f"val/{network}/dice_{name}"] = dice * t if epoch % every == 0 else ""
        rows.append({**row, **more})
    return write_rows(path, rows)


def read_png(path: Path) -> Any:
    from matplotlib.image import imread

    return imread(path)[..., :3]


def has_colour(picture: Any, colour: str) -> int:
    """Pixels of the picture near a colour."""
    from matplotlib.colors import to_rgb

    return int((np.abs(picture - np.array(to_rgb(colour))).max(axis=-1) < 0.03).sum())


def figure_of(folder: Path, *rows: dict[str, Any]) -> Any:
    """The figure of a run with these epochs."""
    return learning_figure(write_rows(folder / "metrics.csv", [{"epoch": i, **row} for i, row in enumerate(rows, 1)]))


def panel(figure: Any, title: str) -> Any:
    return next(axis for axis in figure.axes if axis.get_title().startswith(title))


def legend_of(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


def titles(figure: Any) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def test_a_class_with_a_slash_in_its_name_has_its_curve(tmp_path):
    figure = figure_of(
        tmp_path, *[{f"val/teacher/dice_{name}": 0.5 + 0.1 * i for name in ("mean", "scar/no-reflow")} for i in (1, 2)]
    )
    assert legend_of(panel(figure, "validation Dice")) == ["teacher: mean", "teacher: scar/no-reflow"]


def test_learning_curves_are_written_and_are_a_picture(tmp_path):
    learning_curves(write_metrics(tmp_path / "metrics.csv"), tmp_path / "curves.png")
    picture = read_png(tmp_path / "curves.png")
    assert min(picture.shape[:2]) > 500
    assert has_colour(picture, "white") < 0.99 * picture.shape[0] * picture.shape[1]
    assert has_colour(picture, LINE_COLOURS[0]) > 500  # the first network's lines
    assert has_colour(picture, LINE_COLOURS[1]) > 500


def test_every_term_watched_quantity_and_network_is_drawn(tmp_path):
    figure = learning_figure(write_metrics(tmp_path / "metrics.csv"))
    assert titles(figure) == [
        "validation Dice", "share of the loss: weight x term", "term: supervised (weight 1)", "term: consistency",
        "watched: confident", "learning rate",
    ]  # fmt: skip
    names = [f"{network}: {name}" for network in ("student", "teacher") for name in ("mean", "RV", "LV")]
    assert legend_of(figure.axes[0]) == names
    weight = next(axis for axis in figure.axes if axis.get_ylabel() == "weight (dashed)")
    np.testing.assert_allclose(weight.lines[0].get_ydata(), 0.1 * np.arange(1, 13) / 12)


def test_epochs_without_validation_are_skipped_not_drawn_as_zero(tmp_path):
    figure = learning_figure(write_metrics(tmp_path / "metrics.csv"))
    mean = figure.axes[0].lines[0]
    np.testing.assert_array_equal(mean.get_xdata(), [3, 6, 9, 12])
    np.testing.assert_allclose(mean.get_ydata(), 0.8 * np.array([3, 6, 9, 12]) / 12)
    assert mean.get_linewidth() > figure.axes[0].lines[1].get_linewidth()


# what is watched


def test_watched_quantities_of_a_group_share_a_panel_and_have_a_legend(tmp_path):
    watched = {"watch/gate/scale 1": 0.5, "watch/low_confidence": 0.9, "watch/gate/scale 2": 0.25}
    figure = figure_of(tmp_path, watched, {**watched, "watch/gate/scale 2": 0.75})
    assert titles(figure) == ["watched: gate", "watched: low_confidence"]
    gate = panel(figure, "watched: gate")
    assert legend_of(gate) == ["scale 1", "scale 2"]
    assert [line.get_ydata().tolist() for line in gate.lines] == [[0.5, 0.5], [0.25, 0.75]]
    assert panel(figure, "watched: low_confidence").get_legend() is None


def test_a_group_of_one_has_a_legend_too_and_its_own_name_may_be_a_curve(tmp_path):
    figure = figure_of(tmp_path, {"watch/pairs/intra": 1, "watch/moved": 2, "watch/moved/most": 3})
    assert legend_of(panel(figure, "watched: pairs")) == ["intra"]
    assert legend_of(panel(figure, "watched: moved")) == ["moved", "most"]


def test_what_is_watched_in_the_group_of_a_term_is_drawn_beside_that_term(tmp_path):
    """Where a loss stands that learns nothing: log(2B - 1) for B = 4."""
    row = {"term/contrastive": 1.5, "weight/contrastive": 1, "watch/contrastive/plateau": math.log(7)}
    figure = figure_of(tmp_path, row, row)
    assert titles(figure) == ["term: contrastive (weight 1)"]
    term, plateau = figure.axes[0].lines
    assert (term.get_ydata()[0], plateau.get_ydata()[0]) == (1.5, math.log(7))
    assert (term.get_linestyle(), plateau.get_linestyle()) == ("-", ":")
    assert legend_of(figure.axes[0]) == ["plateau"]


def test_the_parts_of_a_term_differ_from_it_and_from_each_other_in_colour(tmp_path):
    parts = {f"watch/structure/s{i}": i for i in range(1, 5)}
    lines = figure_of(tmp_path, {"term/structure": 10, **parts}).axes[0].lines
    assert len({line.get_color() for line in lines}) == 1 + 4


def test_curves_of_a_large_group_differ_in_colour_or_dashes(tmp_path):
    figure = figure_of(tmp_path, {f"watch/layer/{i}": i for i in range(12)})
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 12


def test_twenty_panels_keep_their_size_and_none_covers_another(tmp_path):
    few, many = (figure_of(tmp_path, {f"watch/{i}": i for i in range(panels)}) for panels in (3, 20))
    boxes = []
    for figure in (few, many):
        figure.draw_without_rendering()
        boxes.append([axis.get_window_extent() for axis in figure.axes])
    assert len(boxes[1]) == 20
    assert min(box.height for box in boxes[1]) > 0.9 * boxes[0][0].height
    assert not any(a.overlaps(b) for i, a in enumerate(boxes[1]) for b in boxes[1][:i])


# what a term adds


def test_the_share_of_a_term_is_its_weight_times_its_value_over_the_sum(tmp_path):
    """1 x 3 + 0.5 x 2 = 4 in the first epoch; the second term is off in the second."""
    first = {"weight/a": 1, "term/a": 3, "weight/b": 0.5, "term/b": 2}
    figure = figure_of(tmp_path, first, {"weight/a": 1, "term/a": 3, "weight/b": 0, "term/b": ""})
    shares = panel(figure, "share of the loss")
    a, b = shares.lines
    assert a.get_ydata().tolist() == [0.75, 1.0]
    assert (b.get_xdata().tolist(), b.get_ydata().tolist()) == ([1], [0.25])
    assert legend_of(shares) == ["a", "b"]


@pytest.mark.parametrize("share", [1.0, 1e-3, 1e-6, 0.0])
def test_a_small_share_is_seen_above_none_and_none_at_the_bottom(tmp_path, share):
    figure = figure_of(tmp_path, {"weight/a": 1, "term/a": 1 - share, "weight/b": 1, "term/b": share})
    axis = panel(figure, "share of the loss")
    drawn = axis.lines[1].get_ydata()[0]
    assert drawn == pytest.approx(share)
    height = axis.transLimits.transform(axis.transScale.transform([1, drawn]))[1]
    none = axis.transLimits.transform(axis.transScale.transform([1, 0]))[1]
    assert 0 <= none < 0.05
    assert height == none if share == 0 else height > none + 1e-4
    assert height > 0.5 or share < 1e-2


def test_a_loss_of_0_has_no_shares_and_one_term_has_no_such_panel(tmp_path):
    figure = figure_of(tmp_path, {"weight/a": 1, "term/a": 0, "weight/b": 1, "term/b": 0})
    assert [len(line.get_xdata()) for line in panel(figure, "share of the loss").lines] == [0, 0]
    assert titles(figure_of(tmp_path, {"weight/a": 1, "term/a": 2})) == ["term: a (weight 1)"]
    assert titles(figure_of(tmp_path, {"term/a": 1, "term/b": 2})) == ["term: a", "term: b"], "no weights are known"


NOTHING = {
    "it was 0": ([(1, 0.0), (0.5, 0.0)], "term: b\nit was 0 in every epoch"),
    "it was 0 where it was wanted": ([(0, ""), (0.5, 0.0)], "term: b\nit was 0 in every epoch"),
    "its weight was 0": ([(0, ""), (0, "")], "term: b (weight 0)\nits weight was 0 in every epoch"),
    "it was not computed": ([(2, ""), (2, "")], "term: b (weight 2)\nnever computed, though its weight is above 0"),
}


@pytest.mark.parametrize(("epochs", "title"), NOTHING.values(), ids=NOTHING)
def test_a_term_that_added_nothing_says_so_in_its_title_and_among_the_shares(tmp_path, epochs, title):
    rows = [{"weight/a": 1, "term/a": 1, "weight/b": weight, "term/b": value} for weight, value in epochs]
    figure = figure_of(tmp_path, *rows)
    axis = panel(figure, "term: b")
    assert axis.get_title() == title
    assert axis.title.get_color() == WARNING
    assert panel(figure, "term: a").title.get_color() != WARNING
    a, b = panel(figure, "share of the loss").get_legend().get_texts()
    assert (a.get_text(), b.get_text(), b.get_color()) == ("a", "b: nothing", WARNING)
    assert a.get_color() != WARNING


@pytest.mark.parametrize("epochs", [[(0, ""), (1, 1e-9)], [(1, 0.0), (1, 0.1)], [(1, 0.5), (0, "")]])
def test_a_term_that_added_something_in_one_epoch_is_no_warning(tmp_path, epochs):
    rows = [{"weight/a": 1, "term/a": 1, "weight/b": weight, "term/b": value} for weight, value in epochs]
    figure = figure_of(tmp_path, *rows)
    assert "\n" not in panel(figure, "term: b").get_title()
    assert legend_of(panel(figure, "share of the loss")) == ["a", "b"]


def test_a_term_has_the_same_colour_in_its_panel_as_among_the_shares(tmp_path):
    figure = figure_of(tmp_path, {"weight/a": 1, "term/a": 1, "weight/b": 1, "term/b": 2, "weight/c": 0})
    shares = panel(figure, "share of the loss").lines
    for line, name in zip(shares, "ab", strict=False):
        assert panel(figure, f"term: {name}").lines[0].get_color() == line.get_color()
    assert len({line.get_color() for line in shares}) == 3


# tables that are short or broken


def test_a_run_of_one_epoch_or_with_a_row_cut_short_is_drawn(tmp_path):
    learning_curves(write_metrics(tmp_path / "one.csv", epochs=1), tmp_path / "one.png")
    path = write_metrics(tmp_path / "cut.csv")
    path.write_text(path.read_text()[:-40])
    learning_curves(path, tmp_path / "cut.png")
    assert read_png(tmp_path / "one.png").std() > 0.01
    assert read_png(tmp_path / "cut.png").std() > 0.01


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has no column epoch"),
        ("epoch,learning_rate\n", "has no epochs"),
        ("epoch,seconds\n1,2\n", "has nothing to draw"),
    ],
)
def test_curves_of_nothing_are_refused(tmp_path, text, fault):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=fault):
        learning_curves(path, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
