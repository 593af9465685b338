"""The bundle of a study as one that others can download: an archive with its hash, and a model card.

    python -m distribution.from_study STUDY TASK --data "Breast ultrasound, clinic X" --licence CC-BY-4.0

``STUDY/release/dist/TASK_METHOD_vVERSION.zip`` and ``SHA256SUMS``; the card lies in ``STUDY/release/cards``. No scan, no label,
no name of a patient and no path of this machine is in them. Whether weights may be passed on is for the terms of the data to say.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from custom.cohort.intensities import FILE
from custom.errors import show_plainly
from custom.evaluation.case_table import read_cases
from custom.files import write_text
from custom.study import settings as study
from custom.study.handed_over import digests
from custom.study.jobs import SCORES
from custom.study.settings import Settings
from custom.study.trainings import RUNS, final_name
from custom.study.verdict import SCORED

from . import adopt as runs
from .build import BASE_URL, build
from .cards import ROOT, TASK, Card, CardError, read
from .model_card import UNKNOWN
from .packing import digest

RELEASE = "release"  # below the study's folder
INTENDED = (
    "Research on semi-supervised segmentation, and a first draft of {classes} for an annotator to correct, on scans like those "
    "that it was trained on. Not a medical device; not for diagnosis."
)
TRAINED = "job/settings.json"  # of a run; study.yaml and task.yaml may say something else by now
ALIKE = ("steps", "seed", "overrides", "task")  # in the trainings of the folds and in that of the bundle
# In the unpacked folder, where task and numbers are merged in.
COMMAND = "python -m monai.bundle run training --config_file configs/train.yaml --data_list /data/list.json --initial_weights ''"
UNTRIED = "Any other scans than those of the study: other sites, machines, protocols and patients."


def card_of(folder: Path, task: str, data: str, licence: str, **given: str) -> Card:
    """Write the card of a study's bundle, its task and its weights to ``release/cards/TASK_METHOD``; an earlier one is replaced.

    Args:
        folder: of a study whose page was written.
        task: what it segments, one word: the bundle's name begins with it.
        data: name of the scans, for whoever reads the card.
        licence: terms of the scans, and so of the weights.
        given: ``version``, ``source``, ``attribution``, ``intended_use``, ``not_tested_on``; empty is not given.

    Raises:
        StudyError: ``folder`` is not a study.
        CardError: its page was not written yet, or its folds were trained anew since; a task that is no word.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", task):
        raise CardError(f"task {task!r}: expected one word of letters, digits and _, as in breast")
    planned = study.read(folder)
    method = _serving(folder, planned)
    given = {key: value for key, value in given.items() if value}
    run = folder / RUNS / final_name(method)
    settings = runs.settings_of(run, method)
    about = json.loads((run / "bundle/run.json").read_text(encoding="utf-8"))
    trained = _trained(run)
    own = yaml.safe_load(trained["task"])
    known = {**runs.read_yaml(ROOT / f"bundles/{method}/configs/train.yaml"), **own}
    overrides = runs.differences(known, settings)
    minutes, date, machine = runs.cost(run)
    for bundle in (planned.baseline, planned.method):
        runs.existing(folder / SCORED / f"{bundle}.json", "Let the study write its page")
    summary = folder / SCORED / f"{method}.json"
    figures = runs.figures_of({"model.pt": json.loads(summary.read_text(encoding="utf-8"))}, summary.parent)
    folds = _folds(folder, method, trained)
    name = f"{task}_{method}"
    place = folder / RELEASE / "cards" / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    weights = {file: runs.bare_weights(run / "bundle/models" / file) for file in _files(run)}
    for file, path in weights.items():
        shutil.copyfile(path, place / file)
    if (seen := run / "bundle/models" / FILE).is_file():
        shutil.copyfile(seen, place / FILE)
    # without a list it would be trained on the bundle's phantom
    write_text(place / TASK, trained["task"] if "data_list" in own else f"data_list: list.json\n{trained['task']}")
    lists = json.loads(trained["data"])
    content = {
        "name": name, "version": given.get("version", "0.1.0"), "method": method, "task": task, "overrides": overrides,
        "models": ".", "weights": {file: digest(place / file) for file in weights}, "recommended": False,
        "training": {"commands": [COMMAND], "commit": _commit(), "seed": trained["seed"],
                     "date": date, "machine": machine, "minutes": minutes},
        "data": {"name": data, "source": given.get("source", "not published"), "licence": licence,
                 "attribution": given.get("attribution", f"{data}. {licence}."),
                 "labelled": len(lists["labelled"]), "unlabelled": len(lists["unlabelled"]), "validation": 0,
                 "test": figures["cases"], "split": _split(folds, trained["seed"]),
                 "sha256": about["sha256 of the scans, names and voxels"]},
        "figures": {"validation": {}, "test": {**figures, "judged": _judged(folds, planned)}},
        "intended_use": given.get("intended_use", INTENDED.format(classes=" and ".join(map(str, own["classes"][1:])))),
        "not_tested_on": given.get("not_tested_on", UNTRIED),
    }  # fmt: skip
    runs.write_card(place / "card.yaml", content)
    return read(place / "card.yaml")


def _serving(folder: Path, planned: Settings) -> str:
    """The bundle that the study handed over.

    Raises:
        CardError: it has handed over none.
    """
    handed = folder / "bundle/run.json"
    for bundle in (planned.method, planned.baseline):
        trained = folder / RUNS / final_name(bundle) / "bundle/run.json"
        if not (handed.is_file() and trained.is_file() and handed.read_bytes() == trained.read_bytes()):
            continue
        made, weights = digests(handed.parent), trained.with_name("models") / "model.pt"
        if not made or made.get("models/model.pt") == digest(weights):  # run.json says nothing of steps and overrides
            return bundle
    raise CardError(
        f"{folder} has no bundle yet, or another one than its runs have. Go on with python -m custom.study run "
        f"{shlex.quote(str(folder))}"
    )


def _files(run: Path) -> list[str]:
    """``model.pt``, and of a method with a network a modality the others: what else a training leaves serves nothing."""
    metadata = json.loads((run / "bundle/configs/metadata.json").read_text(encoding="utf-8"))
    return sorted({"model.pt", *(Path(about["file"]).name for about in metadata.get("networks", {}).values())})


def _trained(run: Path) -> dict[str, Any]:
    """What a run of the study was trained with: seed, steps, overrides, and the text of its task and of its data list."""
    path = runs.existing(run / TRAINED, "Let the study train it")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _folds(folder: Path, method: str, final: Mapping[str, Any]) -> int:
    """How many networks judged for the figures: runs of folds with the settings of the bundle, whose patients are together those
    of the pooled table. Folds of an earlier division may lie there still.

    Raises:
        CardError: they are not.
    """
    pooled = read_cases(folder / SCORED / f"{method}.csv")
    left = {row["patient"] for row in pooled}
    pooled_dice = {row["case"]: str(row["dice_mean"]) for row in pooled}
    numbers = sorted(int(found[1]) for path in (folder / RUNS).iterdir()
                     if (found := re.fullmatch(rf"fold(\d+)_{method}", path.name)) and (path / TRAINED).is_file())  # fmt: skip
    count = 0
    for number in numbers:
        fold = _trained(folder / RUNS / f"fold{number}_{method}")
        judges = {entry["patient"] for entry in json.loads(fold["data"])["test"]}
        table = folder / RUNS / f"fold{number}_{method}" / SCORES / "model.csv"
        rows = read_cases(table) if table.is_file() else []
        if any(pooled_dice.get(row["case"]) != str(row["dice_mean"]) for row in rows):
            continue  # judged anew since the page was written
        if judges and judges <= left and all(fold[key] == final[key] for key in ALIKE):
            left -= judges
            count += 1
    if left:
        raise CardError(
            f"{folder}: the figures of its page are not of folds with the settings of its bundle, which were changed since. "
            f"Go on with python -m custom.study run {shlex.quote(str(folder))}"
        )
    return count


def _judged(folds: int, planned: Settings) -> str:
    """How the figures came about, in words that follow the number of scans."""
    if folds == 1:
        how = "held out: judged by a network of the same settings that had not seen them"
    else:
        how = f"cross-validated: each judged by one of {folds} networks of the same settings that had not seen it"
    return (
        f"{how}. models/model.pt itself was trained with them too, so no scan of the study can judge it. Of "
        f"{planned.baseline} and {planned.method} the one with the higher Dice there is this bundle."
    )


def _split(folds: int, seed: int) -> str:
    if folds == 1:
        return f"a part of the labelled patients held out, drawn with seed {seed}"
    return f"{folds} folds of the labelled patients, drawn with seed {seed}"


def _commit() -> str:
    """The commit of the code that is passed on; :data:`UNKNOWN` where there is no git, or no clone."""
    try:
        return runs.git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m distribution.from_study", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("study", type=Path, metavar="STUDY", help="folder of a study with its page")
    add("task", metavar="TASK", help="what it segments, one word: the name of the bundle is TASK_METHOD")
    add("--data", required=True, help="name of the scans")
    add("--licence", required=True, help="their terms, which hold for the weights too, for example CC-BY-4.0")
    add("--base-url", default=BASE_URL, help="where the archive will lie (default: %(default)s)")
    for name in ("version", "source", "attribution", "intended-use", "not-tested-on"):
        add(f"--{name}", default="")
    options = vars(parser.parse_args(arguments))
    folder, base_url = options.pop("study").resolve(), options.pop("base_url")
    card = card_of(folder, **options)
    dist, cards = folder / RELEASE / "dist", folder / RELEASE / "cards"
    build([card.name], dist, base_url, cards)
    print(f"{dist / card.release}.zip, {dist / 'SHA256SUMS'}. Look at it, then put both where they can be fetched:\n")
    print(f"    python -m distribution.download {card.name} --from {shlex.quote(str(dist))}")
    print(f"    python -m distribution.publish {card.name} --to hf:OWNER/NAME --dry-run --dist {shlex.quote(str(dist))} "
          f"--cards {shlex.quote(str(cards))}")  # fmt: skip


if __name__ == "__main__":
    show_plainly()
    main()
