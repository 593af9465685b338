"""Which scans are of one patient, as far as their names tell it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..cohort.words import plural, some

EACH = r"^(.*)$"
KNOWN = (
    r"^(sub-[^\W_]+)",  # BIDS: sub-control01_ses-02_T1w
    r"^(TCGA[-_][A-Z0-9]{2}[-_][A-Z0-9]{4})",  # The Cancer Genome Atlas: the second part is the hospital
)
LETTERED = r"[^\W\d_]*\d+[^\W\d_]{0,3}"  # a word: P1L, 12a
BEFORE_LETTERS = r"^(\D*\d+)"
BY_NUMBER = (
    r"^(\D*\d[^\W_]*)",  # to the end of the first word with a number
    r"^((?:\D*\d[^\W_]*(?![^\W_])){2})",  # of the second, the third
    r"^((?:\D*\d[^\W_]*(?![^\W_])){3})",
)
UID = re.compile(r"\d+(\.\d+){3,}")  # of DICOM: its first numbers are the scanner's maker
FEW_SCANS = {1: 4, 2: 8}  # so many patients are believed of up to so many scans; of more scans at least 3


@dataclass(frozen=True)
class Grouping:
    """Scans by patient.

    Args:
        pattern: regular expression whose first group, in a scan's name, is the patient.
        patients: names of the scans by patient.
        why: a sentence, with the numbers and examples.
    """

    pattern: str
    patients: dict[str, list[str]]
    why: str


def propose(names: Sequence[str]) -> Grouping:
    """Propose who the patients are: the shortest beginning of the names that has a number and that some names share.

    Too few patients are better than one patient in training and in test; but where all of many scans would be of one or
    two patients, the beginning is that of a hospital or a data set, and the next longer one is tried. Where no
    beginning is shared, each scan is a patient.
    """
    scans = plural(len(names), "scan")
    passed: dict[str, str] = {}
    for pattern in _patterns(names):
        found = _grouped(names, pattern)
        if found and len(found) < len(names):
            if len(names) <= FEW_SCANS.get(len(found), len(names)):
                return Grouping(
                    pattern, found, f"{plural(len(found), 'patient')} of {scans}, {_examples(found, passed)}"
                )
            passed.setdefault(some(list(found)), pattern)
    why = f"no two names begin alike up to a number ({some(names, 2)}). If several are of one patient, give --patient"
    if passed:
        beginning, pattern = next(iter(passed.items()))
        why = f"names begin with {beginning}, too few to be the patients. If they are, give --patient '{pattern}'"
    return Grouping(EACH, {name: [name] for name in names}, f"each of {scans} counts as a patient: {why}")


def _patterns(names: Sequence[str]) -> Sequence[str]:
    """Patterns from the shortest beginning to the longest; only that of a known form, where all names have it."""
    if all(UID.fullmatch(name) for name in names):
        return ()
    if known := [pattern for pattern in KNOWN if all(re.search(pattern, name) for name in names)]:
        return known
    words = [match[0] for name in names if (match := re.search(r"[^\W_]*\d[^\W_]*", name))]
    return (BEFORE_LETTERS, *BY_NUMBER) if all(re.fullmatch(LETTERED, word) for word in words) else BY_NUMBER


def _grouped(names: Sequence[str], pattern: str) -> dict[str, list[str]]:
    """Names by patient; none where the pattern is not that of all names."""
    found: dict[str, list[str]] = {}
    for name in names:
        match = re.search(pattern, name)
        if not match:
            return {}
        found.setdefault(match[1], []).append(name)
    return found


def _examples(found: dict[str, list[str]], passed: Mapping[str, str]) -> str:
    largest = sorted(found, key=lambda patient: -len(found[patient]))[:2]
    texts = "; ".join(f"{patient}: {some(found[patient], 3)}" for patient in largest)
    return f"by what names begin with: {texts}" + (f" ({' or '.join(passed)} would be too few)" if passed else "")
