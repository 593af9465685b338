"""Make a data list from folders, split by patient, with a fingerprint of what the scans hold."""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .cohort import PARTS, SUFFIXES, CohortError, is_image, read, stem


def make(
    image_dir: Path,
    label_dir: Path,
    out: Path,
    patient: str = r"^(.*)$",
    split: Mapping[str, Sequence[str]] | None = None,
    labelled: int = 0,
    validation: int = 0,
    test: int = 0,
    seed: int = 0,
) -> Path:
    """Write the data list of a folder of images and a folder of labels with the same file names, split by patient.

    Args:
        patient: regular expression whose first group, in a file's stem, is the patient.
        split: ``{"train": [patients], "val": [...], "test": [...]}``, the order of ``train`` deciding who is
            labelled; without it ``validation`` and ``test`` patients are drawn by ``seed`` among those with a label.
        labelled: how many training patients are labelled: the first of the order; 0 takes all that have a label.

    Raises:
        CohortError: no images; a file name without a patient; fewer patients with a label than asked for; a split that
            names unknown patients, or patients without a label for evaluation.
    """
    cases: dict[str, list[Path]] = {}
    for file in sorted(filter(is_image, Path(image_dir).iterdir())):
        found = re.search(patient, stem(file))
        if found is None or not found.groups():
            raise CohortError(f"--patient {patient!r} does not match {stem(file)!r}, or has no group in brackets")
        cases.setdefault(found.group(1), []).append(file)
    if not cases:
        raise CohortError(f"no images in {image_dir}: expected files {', '.join(SUFFIXES)}")
    label_of = {stem(p): p for p in Path(label_dir).iterdir() if is_image(p)}
    has_label = [p for p, files in cases.items() if all(stem(f) in label_of for f in files)]
    if split is None:
        if validation + test + labelled > len(has_label):
            raise CohortError(f"asked for {labelled} labelled, {validation} validation and {test} test patients; "
                              f"{len(has_label)} of {len(cases)} patients have a label")  # fmt: skip
        order = list(has_label)
        random.Random(seed).shuffle(order)
        split = {"val": order[:validation], "test": order[validation : validation + test],
                 "train": order[validation + test :] + [p for p in cases if p not in has_label]}  # fmt: skip
    elif validation or test:
        raise CohortError("validation and test patients are those of the split: leave out the numbers")
    split = {"val": [], "test": [], **split}
    _judge_split(split, cases, has_label)
    with_label = [p for p in split["train"] if p in has_label]
    if labelled > len(with_label):
        raise CohortError(f"asked for {labelled} labelled patients; {len(with_label)} of train have a label")
    parts = {"labelled": with_label[: labelled or None], "validation": split["val"], "test": split["test"]}
    parts["unlabelled"] = [p for p in split["train"] if p not in parts["labelled"]]
    entries: dict[str, list[dict]] = {}
    for part in PARTS:
        entries[part] = []
        for name in parts[part]:
            for file in cases[name]:
                entry = {"patient": name, "image": str(file.resolve())}
                if part != "unlabelled":
                    entry["label"] = str(label_of[stem(file)].resolve())
                entries[part].append(entry)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(entries, indent=1) + "\n")
    return out


def _judge_split(split: Mapping[str, Sequence[str]], cases: Mapping[str, Any], has_label: Sequence[str]) -> None:
    if set(split) != {"train", "val", "test"}:
        raise CohortError(f"a split has lists under train, val and test, this one has {list(split)}")
    unknown = [name for names in split.values() for name in names if name not in cases]
    if unknown:
        raise CohortError(f"the split names patients without an image: {', '.join(map(str, unknown))}. "
                          f"The images are of {', '.join(list(cases)[:5])}, ...")  # fmt: skip
    bare = [name for part in ("val", "test") for name in split[part] if name not in has_label]
    if bare:
        raise CohortError(f"patients for validation or test without a label: {', '.join(bare)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom.cohort make ...``, without the word ``make``."""
    parser = argparse.ArgumentParser(prog="python -m custom.cohort make", description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patient", default=r"^(.*)$", help="regular expression; its first group is the patient")
    parser.add_argument("--split", type=Path, help="JSON with the patients under train, val, test (or under 'split')")
    for name in ("labelled", "validation", "test", "seed"):
        parser.add_argument(f"--{name}", type=int, default=0)
    told = parser.parse_args(arguments)
    split = json.loads(told.split.read_text()) if told.split else None
    split = split.get("split", split) if split else None
    out = make(told.images, told.labels, told.out, told.patient, split, told.labelled, told.validation, told.test,
               told.seed)  # fmt: skip
    parts = read(out)
    counts = {part: (len(parts[part]), len({e["patient"] for e in parts[part]})) for part in PARTS}
    print(out, ", ".join(f"{part}: {n} scans of {p} patients" for part, (n, p) in counts.items()))
