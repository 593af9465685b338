"""What a model drew: pictures of cases.

matplotlib is imported where it draws; figures are made without pyplot, so nothing global is touched and no display
is needed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..evaluation.metrics import dice
from ..evaluation.slices import for_display, slice_to_show
from ..files import write_atomically
from .palette import CLASS_COLOURS, GREY

_BAR_LENGTHS_MM = (1, 2, 5, 10, 20, 50, 100)


def case_pictures(
    image: NDArray[Any],
    label: NDArray[Any],
    predictions: dict[str, NDArray[Any]],
    png: Path | str,
    title: str,
    class_names: Sequence[str],
    spacing_mm: Sequence[float] | None,
    axis_codes: str = "LPS",
) -> None:
    """Draws one case: the image, the reference's contours, then each prediction's with the reference's dashed.

    Of a volume the slice across the last axis with the largest labelled area is shown (of an empty label, that with
    the largest predicted area). Axis 0 runs to the right and axis 1 downwards, after a flip of those that
    ``axis_codes`` names R, A or S: so an axial slice lies as radiologists are used to, and a photograph as MONAI reads
    it stands upright. The first panel is the whole slice, the box in it is what the others show. Dice is of the whole
    case, not of the slice.

    Args:
        image: ``(*spatial)`` or ``(C, *spatial)``; the first channel is shown in grey, three channels of a 2D image
            with whole values in 0..255 in colour.
        label: class indices ``(*spatial)``, two or three axes; ``i + 1`` is ``class_names[i]``.
        predictions: class indices of each model, by its name, in the label's shape.
        png: the file to make, whole or not at all; its folder exists.
        title: above the panels.
        class_names: of the foreground classes.
        spacing_mm: the voxel's size along each axis, in mm; None where it is not known (square pixels, no scale bar).
        axis_codes: where the axes point to, as nibabel's ``aff2axcodes`` says; leave it for a photograph.

    Raises:
        ValueError: shapes or a spacing that do not fit one another.
    """
    from matplotlib.figure import Figure

    image, label = np.asarray(image), np.asarray(label)
    predictions = {name: np.asarray(pred) for name, pred in predictions.items()}
    _check_case(image, label, predictions, spacing_mm)
    image, label = for_display(image, label.ndim, axis_codes), for_display(label, label.ndim, axis_codes)
    predictions = {name: for_display(pred, label.ndim, axis_codes) for name, pred in predictions.items()}
    shown = slice_to_show(label, predictions)
    masks = [label[shown], *(pred[shown] for pred in predictions.values())]

    panels = 1 + len(masks)
    width, height = 3.0 * panels, 3.0 * _height_over_width(masks[0].shape, spacing_mm) + 1.0
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    axes = figure.subplots(1, panels)
    _draw_case(axes, pixels(image, label, shown), masks, class_names, spacing_mm)
    axes[0].set_title("image" if label.ndim == 2 else f"image, slice {shown[-1] + 1} of {label.shape[-1]}", fontsize=9)
    axes[1].set_title("reference", fontsize=9)
    for axis, (name, pred) in zip(axes[2:], predictions.items(), strict=True):
        axis.set_title(f"{name}\n{score_text(pred, label, class_names)}", fontsize=9)
    legend(figure, class_names)
    figure.suptitle(title, fontsize=11)
    save_png(figure, Path(png))


def case_panels(
    image: NDArray[Any],
    label: NDArray[Any],
    predictions: Sequence[NDArray[Any]],
    class_names: Sequence[str],
    spacing_mm: Sequence[float] | None,
    width_inches: float = 3.0,
) -> list[Any]:
    """The panels of :func:`case_pictures` each as a figure of its own, without words: image, reference, predictions.

    Args:
        image, label: as there, upright: axis 0 runs to the right and axis 1 downwards.
        predictions: class indices of each model, in the label's shape.
        class_names, spacing_mm: as there.
        width_inches: of every figure.

    Raises:
        ValueError: shapes or a spacing that do not fit one another.
    """
    from matplotlib.figure import Figure

    image, label = np.asarray(image), np.asarray(label)
    named = {str(i): np.asarray(pred) for i, pred in enumerate(predictions, start=1)}
    _check_case(image, label, named, spacing_mm)
    shown = slice_to_show(label, named)
    masks = [label[shown], *(pred[shown] for pred in named.values())]
    size = (width_inches, width_inches * _height_over_width(masks[0].shape, spacing_mm))
    figures = [Figure(figsize=size, facecolor="black") for _ in range(1 + len(masks))]
    axes = [figure.add_axes((0, 0, 1, 1)) for figure in figures]
    for axis in axes:
        axis.set_axis_off()
    _draw_case(axes, pixels(image, label, shown), masks, class_names, spacing_mm)
    return figures


def _check_case(
    image: NDArray[Any], label: NDArray[Any], predictions: dict[str, NDArray[Any]], spacing_mm: Sequence[float] | None
) -> None:
    if label.ndim not in (2, 3):
        raise ValueError(f"label needs two or three axes, got {label.shape}")
    if image.shape != label.shape and image.shape[1:] != label.shape:
        raise ValueError(f"image {image.shape} is neither {label.shape} like the label nor channels of it")
    for name, pred in predictions.items():
        if pred.shape != label.shape:
            raise ValueError(f"prediction {name} {pred.shape} and label {label.shape} differ in shape")
    if spacing_mm is not None and len(spacing_mm) != label.ndim:
        raise ValueError(f"spacing_mm needs {label.ndim} sizes in mm, one an axis, got {tuple(spacing_mm)}")


def pixels(image: NDArray[Any], label: NDArray[Any], shown: tuple[Any, ...]) -> NDArray[Any]:
    """What imshow takes, rows first: grey ``(Y, X)`` in [0, 1], or colour ``(Y, X, 3)``."""
    if label.ndim == 2 and image.shape == (3, *label.shape) and _is_colour(image):
        return image.transpose(2, 1, 0) / 255.0
    grey = (image if image.shape == label.shape else image[0])[shown].astype(float)
    known = grey[np.isfinite(grey)]
    low, high = np.percentile(known, [0.5, 99.5]) if known.size else (0.0, 1.0)
    return np.nan_to_num(np.clip((grey - low) / max(high - low, 1e-12), 0, 1)).T


def _is_colour(image: NDArray[Any]) -> bool:
    return bool(image.min() >= 0 and image.max() <= 255 and (image.dtype.kind in "iu" or (image % 1 == 0).all()))


def box_to_show(masks: Sequence[NDArray[Any]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits along x and y, in voxels, round all that is drawn with a margin, in the proportions of the slice."""
    shape = masks[0].shape
    drawn = np.any([mask > 0 for mask in masks], axis=0)
    if not drawn.any():
        return (-0.5, shape[0] - 0.5), (-0.5, shape[1] - 0.5)
    places = np.nonzero(drawn)
    share = max((int(p.max()) - int(p.min()) + 1) / size for p, size in zip(places, shape, strict=True))
    share = min(1.0, max(1.5 * share, 0.25))  # of each side
    limits = []
    for place, size in zip(places, shape, strict=True):
        length = share * size
        start = (int(place.min()) + int(place.max()) + 1) / 2 - length / 2
        start = min(max(start, 0.0), size - length)
        limits.append((start - 0.5, start + length - 0.5))
    return limits[0], limits[1]


def _height_over_width(shape: Sequence[int], spacing_mm: Sequence[float] | None) -> float:
    """Return the shape of a panel; a picture that is longer than that gets empty borders."""
    step_x, step_y = spacing_mm[:2] if spacing_mm is not None else (1.0, 1.0)
    return min(max(shape[1] * step_y / (shape[0] * step_x), 0.4), 2.5)


def _draw_case(
    axes: Sequence[Any],
    picture: NDArray[Any],
    masks: Sequence[NDArray[Any]],
    class_names: Sequence[str],
    spacing_mm: Sequence[float] | None,
) -> None:
    """The panels of a case: the picture with the box of the others, the reference ``masks[0]``, each prediction."""
    step_x, step_y = spacing_mm[:2] if spacing_mm is not None else (1.0, 1.0)
    box = box_to_show(masks)
    for axis in axes:
        show(axis, picture, step_y / step_x)
    _outline(axes[0], box)
    draw_contours(axes[1], masks[0], class_names)
    for axis, pred in zip(axes[2:], masks[1:], strict=True):
        draw_contours(axis, pred, class_names)
        draw_contours(axis, masks[0], class_names, dashed=True)
    for axis in axes[1:]:
        axis.set(xlim=box[0], ylim=box[1][::-1])
    if spacing_mm is not None:
        _scale_bar(axes[1], box[0], step_x)


def show(axis: Any, picture: NDArray[Any], aspect: float) -> None:
    """Draw what :func:`pixels` made of a slice; ``aspect`` is the height of a pixel over its width."""
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    axis.set(xticks=[], yticks=[])


def _outline(axis: Any, box: tuple[tuple[float, float], tuple[float, float]]) -> None:
    from matplotlib.patches import Rectangle

    (left, right), (top, bottom) = box
    axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=0.8))


def draw_contours(axis: Any, mask: NDArray[Any], class_names: Sequence[str], dashed: bool = False) -> None:
    """The outline of every class; of the reference beside a prediction, thin, dashed and white."""
    from matplotlib.patheffects import Normal, Stroke

    x, y = (np.arange(-1, size + 1) for size in mask.shape)
    for i in range(1, len(class_names) + 1):
        if not (mask == i).any():
            continue
        inside = np.pad(mask == i, 1).T.astype(float)  # a contour closes at the image's edge
        style = {"colors": "white", "linewidths": 0.8, "linestyles": "--"}
        if not dashed:
            style = {"colors": CLASS_COLOURS[(i - 1) % len(CLASS_COLOURS)], "linewidths": 1.8, "linestyles": "-"}
        lines = axis.contour(x, y, inside, levels=[0.5], **style)
        if dashed:
            lines.set_path_effects([Stroke(linewidth=1.8, foreground="black", alpha=0.5), Normal()])


_PANEL_CHARACTERS = 36  # what fits beside the mean in a panel's title


def score_text(pred: NDArray[Any], label: NDArray[Any], class_names: Sequence[str]) -> str:
    """The case's Dice: the mean over the classes that count, and each of them while they fit, unnamed where names are
    too long for a panel: in the order of the legend then."""
    scores = {name: dice(pred == i, label == i) for i, name in enumerate(class_names, start=1)}
    known = [score for score in scores.values() if not math.isnan(score)]
    if not known:
        return "Dice: nothing to score"
    mean = f"Dice {math.fsum(known) / len(known):.3f}"
    if not 1 < len(scores) <= 4:
        return mean
    values = {name: f"{score:.2f}" if not math.isnan(score) else "-" for name, score in scores.items()}
    named = ", ".join(f"{name} {value}" for name, value in values.items())
    return f"{mean} ({named if len(named) <= _PANEL_CHARACTERS else ', '.join(values.values())})"


def _scale_bar(axis: Any, limits: tuple[float, float], step_mm: float) -> None:
    """A bar of a round length, at most a third of the panel."""
    from matplotlib.patheffects import Normal, Stroke

    width_mm = (limits[1] - limits[0]) * step_mm
    length_mm = max((mm for mm in _BAR_LENGTHS_MM if mm <= width_mm / 3), default=_BAR_LENGTHS_MM[0])
    share = length_mm / width_mm
    edge = [Stroke(linewidth=4.5, foreground="black"), Normal()]
    axis.plot([0.05, 0.05 + share], [0.05, 0.05], "w", linewidth=2.5, transform=axis.transAxes, path_effects=edge)
    edge = [Stroke(linewidth=2.0, foreground="black"), Normal()]
    axis.text(0.05, 0.07, f"{length_mm} mm", color="w", fontsize=9, transform=axis.transAxes, path_effects=edge)


def legend(figure: Any, class_names: Sequence[str], reference: bool = True) -> None:
    """Say below a figure which colour is which class, and what is dashed where there is a ``reference``."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=CLASS_COLOURS[i % len(CLASS_COLOURS)], linewidth=2, label=name)
        for i, name in enumerate(class_names)
    ]
    if reference:
        handles.append(Line2D([], [], color=GREY, linewidth=1, linestyle="--", label="reference, over a prediction"))
    columns = legend_columns([str(handle.get_label()) for handle in handles], figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def legend_columns(texts: Sequence[str], inches: float) -> int:
    """How many entries of a :func:`legend` stand in a line of that width."""
    needed = [0.8 + 0.08 * len(text) for text in texts]  # in its size of letters, a little too much
    fit = len(texts) if sum(needed) <= inches else int(inches / max(needed))
    return max(1, min(fit, 6))


def save_png(figure: Any, png: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png")

    def write(stream: BinaryIO) -> None:
        stream.write(content.getvalue())

    write_atomically(png, write)
