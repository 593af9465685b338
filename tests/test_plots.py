import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from custom.evaluation.slices import slice_to_show
from custom.report import plots
from custom.report.palette import CLASS_COLOURS
from custom.report.plots import case_pictures

ROOT = Path(__file__).parents[1]


def read_png(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


def has_colour(picture, colour):
    """Voxels of the picture near a colour."""
    from matplotlib.colors import to_rgb

    return int((np.abs(picture - np.array(to_rgb(colour))).max(axis=-1) < 0.03).sum())


def figure_of(monkeypatch, draw):
    """The figure that a function would have saved."""
    figures = []
    monkeypatch.setattr(plots, "save_png", lambda figure, png: figures.append(figure))
    draw()
    return figures[0]


def heart(shape=(40, 30, 5)):
    """A ring (1) round a disc (2), largest in slice 3, and an image in which they shine."""
    x, y, z = np.indices(shape)
    radius = np.hypot(x - 20, y - 15) + 2 * abs(z - 3)
    label = np.where(radius < 5, 2, np.where(radius < 9, 1, 0))
    return 100.0 * label + np.random.default_rng(0).normal(0, 10, shape), label


def test_case_pictures_show_every_class_in_its_colour(tmp_path):
    image, label = heart()
    case_pictures(image, label, {"ours": np.roll(label, 2, 0)}, tmp_path / "case.png", "p1", ["Myo", "LV"], (1, 1, 8))
    picture = read_png(tmp_path / "case.png")
    third = picture.shape[1] // 3
    for panel, drawn in ((0, False), (1, True), (2, True)):
        half = picture[: int(0.85 * picture.shape[0]), panel * third : (panel + 1) * third]  # above the legend
        for colour in CLASS_COLOURS[:2]:
            assert (has_colour(half, colour) > 50) == drawn, (panel, colour)


def test_case_pictures_say_the_dice_of_the_whole_case_and_the_slice(tmp_path, monkeypatch):
    image, label = heart()
    pred = label.copy()
    pred[..., :3] = 0  # the slices that are not shown
    whole = [2 * (pred == i).sum() / ((pred == i).sum() + (label == i).sum()) for i in (1, 2)]
    draw = lambda: case_pictures(image, label, {"ours": pred}, tmp_path / "x.png", "p1", ["Myo", "LV"], (1, 1, 8))  # noqa: E731
    titles = [axis.get_title() for axis in figure_of(monkeypatch, draw).axes]
    assert titles == [
        "image, slice 4 of 5",
        "reference",
        f"ours\nDice {np.mean(whole):.3f} (Myo {whole[0]:.2f}, LV {whole[1]:.2f})",
    ]


def test_pixels_have_the_proportions_of_the_spacing_and_the_bar_is_in_mm(tmp_path, monkeypatch):
    image, label = heart()
    draw = lambda: case_pictures(image, label, {}, tmp_path / "x.png", "p1", ["Myo", "LV"], (2.0, 3.0, 8.0))  # noqa: E731
    figure = figure_of(monkeypatch, draw)
    assert figure.axes[0].get_aspect() == pytest.approx(1.5)
    left, right = figure.axes[1].get_xlim()
    bar = figure.axes[1].lines[0].get_xdata()
    assert figure.axes[1].texts[0].get_text() == "20 mm"
    assert (bar[1] - bar[0]) * (right - left) * 2.0 == pytest.approx(20.0)


@pytest.mark.parametrize(("axis_codes", "flips"), [("LPS", ()), ("RAS", (0, 1)), ("RPS", (0,)), ("LAS", (1,))])
def test_a_scan_lies_the_same_way_whatever_its_axes(tmp_path, monkeypatch, axis_codes, flips):
    image, label = heart()
    image[5, 3] = 1000.0  # a mark, so that no flip goes unseen
    expected = plots.pixels(image, label, slice_to_show(label, {})).copy()
    stored, stored_label = np.flip(image, flips), np.flip(label, flips)
    draw = lambda: case_pictures(  # noqa: E731
        stored, stored_label, {"ours": stored_label}, tmp_path / "x.png", "p1", ["Myo", "LV"], (1, 1, 8), axis_codes
    )
    axes = figure_of(monkeypatch, draw).axes
    np.testing.assert_array_equal(axes[0].images[0].get_array(), expected)
    assert axes[2].get_title().startswith("ours\nDice 1.000")


def test_an_image_of_whole_values_in_three_channels_is_in_colour_and_upright(tmp_path, monkeypatch):
    image, label = np.zeros((3, 20, 10)), np.zeros((20, 10), dtype=int)
    image[0, 19, 0] = 255  # red, at the right end of the first row
    label[5:9, 3:6] = 1
    draw = lambda: case_pictures(image, label, {"ours": label}, tmp_path / "x.png", "photo", ["polyp"], None)  # noqa: E731
    figure = figure_of(monkeypatch, draw)
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (10, 20, 3)
    assert shown[0, 19].tolist() == [1.0, 0.0, 0.0]
    assert not figure.axes[1].texts  # no scale bar where the size is not known


def test_of_several_channels_the_first_is_shown(tmp_path, monkeypatch):
    image, label = heart()
    two = np.stack([image, -image])
    draw = lambda: case_pictures(two, label, {}, tmp_path / "x.png", "p1", ["Myo", "LV"], (1, 1, 8))  # noqa: E731
    shown = figure_of(monkeypatch, draw).axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, plots.pixels(image, label, (slice(None), slice(None), 3)))


def test_an_empty_label_shows_the_slice_of_the_prediction(tmp_path, monkeypatch):
    image, label = heart()
    pred = np.zeros_like(label)
    pred[3:6, 3:6, 1] = 1
    draw = lambda: case_pictures(  # noqa: E731
        image, 0 * label, {"ours": pred, "none": 0 * pred}, tmp_path / "x.png", "p1", ["Myo", "LV"], (1, 1, 8)
    )
    titles = [axis.get_title() for axis in figure_of(monkeypatch, draw).axes]
    assert titles[0] == "image, slice 2 of 5"
    assert titles[2:] == ["ours\nDice 0.000 (Myo 0.00, LV -)", "none\nDice: nothing to score"]


def test_all_that_is_drawn_lies_inside_the_box():
    mask = np.zeros((100, 60), dtype=int)
    mask[0, 5] = mask[40, 20] = 1
    (left, right), (top, bottom) = plots.box_to_show([mask])
    assert left <= -0.5 + 1e-9
    assert right > 40
    assert top < 5 < 20 < bottom
    assert (right - left) / (bottom - top) == pytest.approx(100 / 60)


@pytest.mark.parametrize(
    ("cut", "cut_pred", "spacing_mm", "fault"),
    [
        (1, 0, (1, 1, 8), r"image \(39, 30, 5\) .* \(40, 30, 5\) like the label"),
        (0, 1, (1, 1, 8), r"prediction ours \(39, 30, 5\) and label \(40, 30, 5\) differ in shape"),
        (0, 0, (1, 1), "spacing_mm needs 3 sizes in mm, one an axis, got"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_the_name(tmp_path, cut, cut_pred, spacing_mm, fault):
    image, label = heart()
    with pytest.raises(ValueError, match=fault):
        case_pictures(image[cut:], label, {"ours": label[cut_pred:]}, tmp_path / "x.png", "p1", ["Myo"], spacing_mm)


DRAWN = """
import sys
import numpy as np
import custom.report, custom.report.plots, custom.report.learning_curves, custom.evaluation.case_report
print([m for m in ("matplotlib", "nibabel") if m in sys.modules])
custom.report.plots.case_pictures(np.eye(9), np.eye(9, dtype=int), {}, sys.argv[1], "t", ["a"], None)
print("matplotlib.pyplot" in sys.modules)
"""


def test_importing_the_report_does_not_import_what_draws_and_drawing_does_not_touch_pyplot(tmp_path):
    command = [sys.executable, "-c", DRAWN, str(tmp_path / "x.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "False"], done.stderr


def test_long_class_names_do_not_run_into_the_next_panel():
    label = np.zeros((8, 8), np.uint8)
    label[2:4], label[5:7] = 1, 2
    names = ["right ventricle", "left ventricle, the cavity of it"]
    assert plots.score_text(label, label, names) == "Dice 1.000 (1.00, 1.00)"
    assert plots.score_text(label, label, ["RV", "LV"]) == "Dice 1.000 (RV 1.00, LV 1.00)"


@pytest.mark.parametrize(("inches", "columns"), [(2.0, 1), (4.4, 2), (12.0, 3)])
def test_a_legend_is_not_wider_than_its_figure(inches, columns):
    figure = Figure(figsize=(inches, 3), layout="constrained")
    plots.legend(figure, ["right ventricle", "myocardium", "left ventricle"], reference=False)
    FigureCanvasAgg(figure).draw()
    [legend] = figure.legends
    assert legend._ncols == columns
    assert legend.get_window_extent().width <= figure.bbox.width
