"""What a request may say: every parameter by name and type; whatever is not named here is refused.

Pure functions of plain values. A string is either one of a list or matches a narrow pattern, so that no expression
(``$``, ``@``), path or option of MONAI Label that was not thought of reaches the app.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from custom.cohort.words import plural
from custom.errors import UserError, nearest

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".jpeg")  # of images that are read here
LABEL_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".png")  # JPEG changes values
RESULT_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".png")
MOST_EPOCHS = 10_000
LONGEST = 120  # characters of a name, and of what an error repeats
SEGMENTS = 256

_PLAIN = re.compile(r"\w[\w .+-]*")  # letters and digits of any script; no separator of paths, no leading dot


class BadRequest(UserError):
    """A request that is refused, in one sentence, with its HTTP status."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Rule:
    """What a value must be: ``expected`` in words, and whether it ``holds``."""

    expected: str
    holds: Callable[[Any], bool]


def one_of(values: Collection[str]) -> Rule:
    """Exactly one of the texts."""
    return Rule(f"one of {', '.join(map(str, values))}", lambda value: isinstance(value, str) and value in values)


def whole(low: int, high: int) -> Rule:
    """An int (no bool, no string) from ``low`` to ``high``."""
    return Rule(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def is_plain(name: Any) -> bool:
    """Whether a value can be the name of a file in a folder, and of nothing elsewhere."""
    return isinstance(name, str) and len(name) <= LONGEST and _PLAIN.fullmatch(name) is not None and ".." not in name


TRUTH = Rule("true or false, without quotes", lambda value: isinstance(value, bool))
WORDED_TRUTH = one_of(("true", "false"))  # in a query, where all is text
PLAIN = f"a plain name of at most {LONGEST} letters, digits, spaces and . _ + -"
NAME = Rule("a name", lambda value: isinstance(value, str))  # of what is there already, to be looked up
PLAIN_OR_NONE = Rule(PLAIN, lambda value: value is None or is_plain(value))
TAG = Rule("'final', or nothing", lambda value: value in ("", "final"))
KNOWN_TAG = one_of(("final", "original"))
CLIENT = {"client_id": PLAIN_OR_NONE}  # who sends it; every client adds it


def checked(given: Any, rules: Mapping[str, Rule], where: str) -> dict[str, Any]:
    """The parameters as they came, each judged by its rule.

    Args:
        where: what the parameters belong to, for the error: ``train``.

    Raises:
        BadRequest: not a JSON object; a name without a rule; a value that its rule refuses. All of them in one sentence.
    """
    if not isinstance(given, Mapping):
        raise BadRequest(f"{where}: found {shown(given)}, expected a JSON object of parameters. Send {{}} for none")
    faults = [_fault(name, value, rules) for name, value in given.items()]
    if faults := [fault for fault in faults if fault]:
        raise BadRequest(f"{where}: {'; '.join(faults)}")
    return dict(given)


def _fault(name: str, value: Any, rules: Mapping[str, Rule]) -> str:
    if name not in rules:
        known = ", ".join(rules) or "none"
        return (
            f"parameter {shown(name)} is not known{nearest(str(name)[:LONGEST], rules)}, expected {known}. Leave it out"
        )
    rule = rules[name]
    return "" if rule.holds(value) else f"parameter {name} is {shown(value)}, expected {rule.expected}. Correct it"


def infer_rules(config: Mapping[str, Any]) -> dict[str, Rule]:
    """Rules of an inference: the form of its result, and of devices and files of weights those that ``/info/`` offers."""
    return {
        **_offered(config, "device", "model_filename"),
        "result_extension": one_of(RESULT_SUFFIXES),
        "result_dtype": one_of(("uint8",)),
        "result_compress": TRUTH,
        **CLIENT,
    }


def train_rules(config: Mapping[str, Any]) -> dict[str, Rule]:
    """Rules of a training: its length, whether it starts from the served weights, and where it runs."""
    return {
        **_offered(config, "device"),
        "max_epochs": whole(1, MOST_EPOCHS),
        "pretrained": TRUTH,
        **CLIENT,
    }


def label_rules(classes: Sequence[str]) -> dict[str, Rule]:
    """Rules of a label that is saved: who drew it, and what Slicer says of its segments.

    Args:
        classes: names, background first, in the order of their values.
    """
    return {
        "label_info": Rule(
            f"a list of at most {SEGMENTS} segments {{name, idx}}, those named like a class with its number: "
            + ", ".join(f"{number} {name}" for number, name in list(enumerate(classes))[1:])
            + " (order the segments so, an absent one empty)",
            lambda value: _segments(value, classes),
        ),
        **CLIENT,
    }


def _segments(value: Any, classes: Sequence[str]) -> bool:
    """A segment's number is its place among the segments: deleted or moved ones would become another class."""
    numbers = {name.lower(): number for number, name in enumerate(classes)}
    return (
        isinstance(value, list)
        and len(value) <= SEGMENTS
        and all(
            isinstance(segment, dict)
            and set(segment) == {"name", "idx"}
            and isinstance(segment["name"], str)
            and len(segment["name"]) <= LONGEST
            and type(segment["idx"]) is int
            and numbers.get(segment["name"].lower(), segment["idx"]) == segment["idx"]
            for segment in value
        )
    )


def judge_names(segments: Sequence[Mapping[str, Any]], classes: Sequence[str], found: Collection[float]) -> None:
    """Refuse a segment that has voxels and no class's name: its number says where it stood, not what was drawn.

    Args:
        segments: ``{name, idx}`` each, as :func:`label_rules` judged them.
        classes: names, background first, in the order of their values.
        found: the numbers that the label's voxels have.

    Raises:
        BadRequest: names these segments, the classes, and what to do.
    """
    known = [name.lower() for name in classes[1:]]
    odd = [
        f"{shown(name)} (number {segment['idx']}){nearest(name.lower(), known)}"
        for segment in segments
        if (name := segment["name"]).lower() not in known and segment["idx"] != 0 and segment["idx"] in found
    ]
    if odd:
        raise BadRequest(
            f"label: found voxels of {plural(len(odd), 'segment')} whose name is not a class: {', '.join(odd)}; expected "
            f"{', '.join(classes[1:])}. Rename each to the class that it shows, in this order, or remove it"
        )


def _offered(config: Mapping[str, Any], *names: str) -> dict[str, Rule]:
    """Rule of an option that the app has a list for: one of the list; the others are not known."""
    return {name: one_of(config[name]) for name in names if isinstance(config.get(name), list)}


def existing(name: Any, known: Collection[str], noun: str) -> str:
    """A name that is there.

    Raises:
        BadRequest: 400 where it cannot be a name, 404 where there is none of that name.
    """
    if name in known:
        return str(name)
    if not is_plain(name):
        raise BadRequest(f"{noun} is {shown(name)}, expected {PLAIN}. Take it from /info/ or /datastore/")
    raise BadRequest(f"there is no {noun} {shown(name)}{nearest(name, known)}. Take it from /info/ or /datastore/", 404)


def new_image(name: Any, known: Collection[str]) -> str:
    """The name of an image that is added.

    Raises:
        BadRequest: 400 where it is not a plain name without suffix, 409 where an image has it.
    """
    if not is_plain(name) or suffix_of(name, SUFFIXES):
        raise BadRequest(f"image is {shown(name)}, expected {PLAIN}, without suffix. Rename it")
    if name in known:
        raise BadRequest(f"image {shown(name)} exists, and no scan is overwritten. Send it under another name", 409)
    return str(name)


def suffix_of(filename: str | None, suffixes: Sequence[str]) -> str:
    """The one of the suffixes that a file's name ends in, or nothing."""
    return next((suffix for suffix in suffixes if (filename or "").lower().endswith(suffix)), "")


def file_suffix(filename: str | None, suffixes: Sequence[str], noun: str) -> str:
    """Suffix of a file, see :func:`suffix_of`.

    Raises:
        BadRequest: it ends in none of them.
    """
    if suffix := suffix_of(filename, suffixes):
        return suffix
    raise BadRequest(
        f"{noun} is the file {shown(filename)}, expected a name that ends in {', '.join(suffixes)}. Save it so"
    )


def shown(value: Any) -> str:
    """A value as an error repeats it: short, and on one line."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
