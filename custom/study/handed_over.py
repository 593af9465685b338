"""What lies beside the page of a study: ``scores.csv``, ``bundle/`` and ``predictions/`` with their pictures."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..evaluation.case_report import FAULTS
from ..files import entries, sweep, write_text
from ..report import pair, preview
from ..report.tables import number
from .jobs import MAPS
from .label_maps import map_of, read_map
from .scans import Scans
from .state import State
from .trainings import final_name

SHOWN = 24  # scans on the contact sheet
MADE, SHEET = ".made.json", "look_at_first.png"  # digests of what was handed over; the contact sheet
NEW = ".{}.new"  # where predictions or a bundle are made
ASIDE = "{}_edited"  # where what somebody changed, or put there, goes
RUN = "run.json"  # what a bundle says of its run
PYCACHE = "__pycache__"
USERS = ("eval", "data")  # folders of a bundle where its training and inference write and read by default


def write_scores(state: State, both: pair.Pair, scans: Scans, serving: str) -> None:
    """``scores.csv``: a line a scan, those that judged with their Dice, the others with what is predicted of it.

    Args:
        both: scores of those that judged.
        scans: the others.
        serving: the bundle whose missed structures and false alarms are counted, in the last columns.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    both_dice = [f"dice_{name}" for name in state.names]
    writer.writerow(["scan", "patient", *both_dice, "predicted_dice", "agreement", "confidence", "remarks", *FAULTS])
    served = both.ours if serving == state.settings.method else both.baseline
    for base, mine, row in zip(both.baseline, both.ours, served, strict=True):
        dice = map(_cell, (base["dice_mean"], mine["dice_mean"]))
        writer.writerow([base["case"], base["patient"], *dice, "", "", "", "", *(row[kind] for kind in FAULTS)])
    for scan in scans.order:
        figures = map(_cell, (scan.predicted, scan.agreement, scan.confidence))
        writer.writerow([scan.name, "", "", "", *figures, "; ".join(scan.marks), *("" for _ in FAULTS)])
    write_text(state.folder / "scores.csv", text.getvalue())


def _cell(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def hand_over(state: State, scans: Scans, serving: str) -> str:
    """``bundle/``, and ``predictions/`` with a picture a scan; returns the sheet of those to look at first, as an address.

    What is there stays until the new predictions are made, and what a user has made stays for good.
    """
    run = state.runs / final_name(serving)
    out = state.folder / "predictions"
    if final_name(serving) not in state.stale and (run / "bundle/run.json").is_file():
        _replace_bundle(run / "bundle", state.folder / "bundle")
    new = _fresh(out)
    drawn: list[preview.Preview] = []
    for scan in scans.order:
        file = map_of(run / MAPS, scan.name)
        if file is None:
            continue
        (new / "pictures").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, new)
        mask = read_map(file, state.task["label_values"])
        title = f"{scan.name}\n{number(scan.predicted, 2).text if math.isfinite(scan.predicted) else ''}".strip()
        one = preview.preview(Path(state.image_of(scan.name)), mask, title)
        preview.write(one, state.task["classes"][1:], new / "pictures" / f"{scan.name}.png")
        if len(drawn) < SHOWN:
            drawn.append(one)
    if drawn:
        preview.write_sheet(drawn, state.task["classes"][1:], new / SHEET)
    if drawn or not state.trainings.unlabelled:  # else a training failed or is to run again: what there is stays
        _clear(out, digests(out))
    if not drawn:
        return ""
    _move(new, out, {path.relative_to(new).as_posix(): _digest(path) for path in _files(new)})
    return _address(out / SHEET)


def _replace_bundle(trained: Path, out: Path) -> None:
    """Put the bundle of a run in the place of an earlier one, except the folders that are its user's; where it is there
    already, add what is missing.

    ``run.json`` goes first and comes last: a bundle that is half there has none.
    """
    there = [path.relative_to(trained) for path in _files(trained)]
    there = [file for file in there if file.parts[0] not in (*USERS, RUN) and PYCACHE not in file.parts]
    made, before = {file.as_posix(): _digest(trained / file) for file in there}, digests(out)
    same = made == before and (out / RUN).is_file() and (out / RUN).read_bytes() == (trained / RUN).read_bytes()
    if not same:
        (out / RUN).unlink(missing_ok=True)
        _clear(out, before or made, USERS)  # earlier versions left no list
    new = _fresh(out)
    for file in there:
        if not (out / file).is_file():
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(trained / file, new / file)
    _move(new, out, made)
    shutil.copy2(trained / RUN, out)


def _fresh(out: Path) -> Path:
    new = out.with_name(NEW.format(out.name))
    shutil.rmtree(new, ignore_errors=True)
    return new


def _clear(out: Path, made: Mapping[str, str], kept: Sequence[str] = ()) -> None:
    """Empty ``predictions/`` or ``bundle/``: what was made here and is as it was made goes, all else, drawn or changed or put
    there by somebody, moves to ``predictions_edited/`` or ``bundle_edited/``, below the folders that it was in.

    Args:
        made: digests of what was made.
        kept: folders in it that stay.
    """
    sweep(out, (MADE,))
    for at, folders, files in os.walk(out, topdown=False):
        if Path(at).name == PYCACHE:
            shutil.rmtree(at)
            continue
        links = [name for name in folders if Path(at, name).is_symlink()]  # to folders, which os.walk does not enter
        for path in (Path(at, name) for name in [*files, *links]):
            name = path.relative_to(out).as_posix()
            if name == MADE or name.partition("/")[0] in kept:
                continue
            if name in made and not path.is_symlink() and made[name] == _digest(path):
                path.unlink()
            else:
                shutil.move(path, _place(out.with_name(ASIDE.format(out.name)), path.relative_to(out)))
        if Path(at) != out and not any(Path(at).iterdir()):
            Path(at).rmdir()
    (out / MADE).unlink(missing_ok=True)  # after the files: of a call that is killed here it knows what is left
    if not out.is_symlink() and not entries(out) and out.is_dir():
        out.rmdir()


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of what was made in ``predictions/`` or ``bundle/``, by its place; nothing without a list that can be read."""
    try:
        made: dict[str, str] = json.loads((out / MADE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    if SHEET not in made:  # a list from before pictures were in it: those of the scans in it are ours
        pictures = [SHEET, *(f"pictures/{name.rpartition('_pred.')[0]}.png" for name in made)]
        made |= {name: _digest(out / name) for name in pictures if (out / name).is_file()}
    return made


def _place(aside: Path, inside: Path) -> Path:
    """Where a file is set aside: with a number after its name where another one is there."""
    for folder in inside.parent.parts:
        aside = _free(aside / folder, lambda path: os.path.lexists(path) and not path.is_dir())
    aside.mkdir(parents=True, exist_ok=True)
    return _free(aside / inside.name, os.path.lexists)


def _free(path: Path, taken: Callable[[Path], bool]) -> Path:
    numbered = (path.with_name(f"{path.name}.{k}") for k in itertools.count(1))
    return next(each for each in itertools.chain([path], numbered) if not taken(each))


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _move(new: Path, out: Path, made: Mapping[str, str]) -> None:
    """Move what was made to where it is handed over; the list of it goes first, so that a call that is killed leaves nothing
    that the next one would take for a user's."""
    out.mkdir(exist_ok=True)
    write_text(out / MADE, json.dumps(made, indent=1) + "\n")
    for file in (path.relative_to(new) for path in _files(new)):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(new / file, out / file)
    shutil.rmtree(new, ignore_errors=True)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _address(png: Path) -> str:
    """A picture as JPEG within the page, a fraction of its PNG."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(png) as picture:
        picture.convert("RGB").save(content, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
