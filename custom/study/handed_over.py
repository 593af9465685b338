"""What lies beside the page of a study: ``scores.csv``, ``bundle/`` and ``predictions/`` with their pictures."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import shutil
from pathlib import Path

from ..files import write_text
from ..report import pair, preview
from ..report.tables import number
from .jobs import MAPS
from .label_maps import map_of, read_map
from .scans import Scans
from .state import State
from .trainings import final_name

SHOWN = 24  # scans on the contact sheet
MADE, SHEET = ".made.json", "look_at_first.png"  # digests of what was handed over; the contact sheet


def write_scores(state: State, both: pair.Pair, scans: Scans) -> None:
    """``scores.csv``: a line a scan, those that judged with their Dice, the others with what is predicted of it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["scan", "patient", "dice_without", "dice_with", "predicted_dice", "agreement", "confidence", "remarks"]
    )
    for base, mine in zip(both.baseline, both.ours, strict=True):
        writer.writerow(
            [base["case"], base["patient"], *map(_cell, (base["dice_mean"], mine["dice_mean"])), "", "", "", ""]
        )
    for scan in scans.order:
        figures = map(_cell, (scan.predicted, scan.agreement, scan.confidence))
        writer.writerow([scan.name, "", "", "", *figures, "; ".join(scan.marks)])
    write_text(state.folder / "scores.csv", text.getvalue())


def _cell(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def hand_over(state: State, scans: Scans, serving: str) -> str:
    """``bundle/``, and ``predictions/`` with a picture a scan; returns the sheet of those to look at first, as an address."""
    run = state.runs / final_name(serving)
    if (run / "bundle/run.json").is_file():
        shutil.rmtree(state.folder / "bundle", ignore_errors=True)
        shutil.copytree(run / "bundle", state.folder / "bundle")
    out = state.folder / "predictions"
    _set_aside(out)
    shutil.rmtree(out, ignore_errors=True)
    made: dict[str, str] = {}
    drawn: list[preview.Preview] = []
    for scan in scans.order:
        file = map_of(run / MAPS, scan.name)
        if file is None:
            continue
        (out / "pictures").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, out)
        made[file.name] = _digest(out / file.name)
        mask = read_map(file, state.task["label_values"])
        title = f"{scan.name}\n{number(scan.predicted, 2).text if math.isfinite(scan.predicted) else ''}".strip()
        one = preview.preview(Path(state.image_of(scan.name)), mask, title)
        preview.write(one, state.task["classes"][1:], out / "pictures" / f"{scan.name}.png")
        if len(drawn) < SHOWN:
            drawn.append(one)
    if not drawn:
        return ""
    write_text(out / MADE, json.dumps(made, indent=1) + "\n")
    preview.write_sheet(drawn, state.task["classes"][1:], out / SHEET)
    return _address(out / SHEET)


def _set_aside(out: Path) -> None:
    """Whatever somebody drew in ``predictions/``, or put there, goes to ``predictions_edited/`` and stays."""
    if not (out / MADE).is_file():
        return
    made = json.loads((out / MADE).read_text(encoding="utf-8"))
    for file in sorted(path for path in out.iterdir() if path.is_file() and path.name not in (MADE, SHEET)):
        if made.get(file.name) != _digest(file):
            aside = out.with_name("predictions_edited")
            aside.mkdir(exist_ok=True)
            number = sum(1 for _ in aside.glob(f"{file.name}*"))
            shutil.move(file, aside / (file.name if not number else f"{file.name}.{number}"))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _address(png: Path) -> str:
    """A picture as JPEG within the page, a fraction of its PNG."""
    from PIL import Image

    content = io.BytesIO()
    with Image.open(png) as picture:
        picture.convert("RGB").save(content, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
