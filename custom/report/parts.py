"""What the pages of one run and of two have in common: groups, and the pictures of a few cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from ..evaluation.case_report import GROUP, NOT_GIVEN, Row
from .tables import Column, Table, number, texts


@dataclass(frozen=True)
class Group:
    """The cases by the values of an attribute.

    Args:
        attribute: what they are grouped by.
        values: how many values it has, without those that are not given.
        table: a row a value; None where there are too many.
        svg: the figure; None where there is nothing to draw.
    """

    attribute: str
    values: int
    table: Table | None = None
    svg: Markup | None = None

    most = 12  # values of an attribute that makes groups; with more (an age) a group would hold a case or two

    @property
    def too_many(self) -> bool:
        return self.values > self.most


def group_of(attribute: str, values: Iterable[str]) -> Group:
    """The group of an attribute, still without its table."""
    return Group(attribute, sum(value not in ("", NOT_GIVEN) for value in values))


def attribute_columns(names: Iterable[str]) -> list[Column]:
    """A column an attribute, of the rows of cases."""

    def value(name: str) -> Callable[[Row], str]:
        return lambda row: row[GROUP + name] or NOT_GIVEN

    return [texts(name, value(name)) for name in names]


class Picture(NamedTuple):
    """Address (``data:``), alternative text and caption."""

    source: str
    alt: str
    caption: str


class Panels(NamedTuple):
    """The pictures of a case; without any, ``heading`` says what case it is."""

    heading: str
    pictures: Sequence[Picture]


def image_and_reference(case: str, image: str, reference: str) -> list[Picture]:
    """The first two panels of a case, from their addresses."""
    return [
        Picture(image, f"image of {case}", "image; the box is what the others show"),
        Picture(reference, f"{case}: outlines of the reference", "reference"),
    ]


def prediction(case: str, network: str, address: str, row: Row, classes: Sequence[str]) -> Picture:
    """The panel of what a network drew, with its Dice, of the whole case: ``Dice 0.812 (RV 0.70, LV 0.92)``."""
    dice = f"Dice {number(row['dice_mean'], 3).text}"
    if len(classes) > 1:
        each = (f"{name} {number(row['dice_' + name], 2).text}" for name in classes)
        dice += f" ({', '.join(each)})"
    return Picture(address, f"{case}: outlines of {network} over the reference", f"{network}: {dice}")


def three_of(count: int, first: str, middle: str, last: str) -> dict[int, str]:
    """Which of ``count`` sorted cases are shown, in order, and what they are called; fewer where there are fewer."""
    if count < 2:
        return {0: "The only case"} if count else {}
    return dict(sorted({(count - 1) // 2: middle, 0: first, count - 1: last}.items()))
