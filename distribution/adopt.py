"""A finished and evaluated run becomes a pretrained bundle: weights, hashes, figures, and how it was trained.

    python -m distribution.adopt RUN NAME [--split "python -m custom.cohort make ..."] [--machine ...]
    python -m distribution.adopt --recommend hippocampus

NAME is TASK_METHOD. Weights of a method's default task (a phantom) go to ``bundles/METHOD/models``, where the bundle of
the repository serves with them; all others go beside their card.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from custom.cohort.intensities import FILE
from custom.errors import show_plainly
from custom.evaluation.case_report import COUNTS
from custom.evaluation.earlier import summary_of_today
from custom.files import write_text
from custom.run.config import RunConfig

from .cards import METHODS, PRETRAINED, ROOT, TASKS, Card, CardError, cards, read, verify
from .packing import digest

_PARTS = ("labelled", "unlabelled", "validation", "test")
_SIMPLE_FIRST = ("supervised", "mean_teacher")


def adopt(run: Path, name: str, folder: Path = PRETRAINED, **given: Any) -> Card:
    """Copy a run's weights and write its card.

    Args:
        run: ``output_dir`` of a finished run, evaluated on the test part.
        name: TASK_METHOD.
        folder: where the cards lie.
        given: values for the card that differ from what the run and the data set say: ``version``, ``split``, ``commit``,
            ``date``, ``machine``, ``minutes``, ``intended_use``, ``not_tested_on``, ``weights`` (files; all that the
            method serves); None is not given.

    Raises:
        CardError: the name names no task and method; the run is not finished or evaluated; its method is another one.
    """
    given = {key: value for key, value in given.items() if value is not None}
    task, method = _named(name)
    settings = settings_of(run, method)
    about = json.loads(existing(run / "bundle/run.json", "Let the run end").read_text(encoding="utf-8"))
    by_default = _default_task(method) == task
    models = ROOT / "bundles" / method / "models" if by_default and folder == PRETRAINED else folder / name
    names = list(given.get("weights") or (f"{file}.pt" for file in about["networks"]))
    overrides = differences({**read_yaml(ROOT / f"bundles/{method}/configs/train.yaml"), **_task(task)}, settings)
    facts = _facts(task)
    minutes, date, machine = cost(run)
    phantom = str(settings["data_list"]).startswith("phantom:")
    split = given.get("split") or ("drawn with seed 2023: " + _phantom_command(settings) if phantom else "")
    content = {
        "name": name,
        "version": given.get("version", "0.1.0"),
        "method": method,
        "task": task,
        "overrides": overrides,
        "models": f"bundles/{method}/models" if models.is_relative_to(ROOT / "bundles") else ".",
        "weights": {file: digest(bare_weights(run / "bundle/models" / file)) for file in names},
        "recommended": False,
        "training": {
            "commands": _commands(method, task, overrides, phantom),
            "commit": given.get("commit") or git("rev-parse", "HEAD"),
            "seed": int(settings["seed"]),
            "date": given.get("date", date),
            "machine": given.get("machine", machine),
            "minutes": given.get("minutes", minutes),
        },
        "data": {key: facts[key] for key in ("name", "source", "licence", "attribution")}
        | _cases(run, settings)
        | {"split": split, "sha256": about["sha256 of the scans, names and voxels"]},
        "figures": {"validation": _validation(run, about), "test": _figures(run, "test", names)},
        "intended_use": given.get("intended_use", facts["intended_use"]),
        "not_tested_on": given.get("not_tested_on", facts["not_tested_on"]),
    }
    models.mkdir(parents=True, exist_ok=True)
    for file in names:
        shutil.copyfile(run / "bundle/models" / file, models / file)
    if (seen := run / "bundle/models" / FILE).is_file():
        shutil.copyfile(seen, models / FILE)
    (folder / name).mkdir(parents=True, exist_ok=True)
    write_card(folder / name / "card.yaml", content)
    card = read(folder / name / "card.yaml")
    verify(card)
    return card


def recommend(task: str, folder: Path = PRETRAINED) -> Card:
    """Mark the card of ``task`` with the best Dice in validation, rounded to 3 digits; of equal ones the simplest method.

    The test part chooses nothing.

    Raises:
        CardError: no card of that task; one without a figure in validation.
    """
    of_task = [c for c in cards(folder) if c.task == task]
    scores = {c.name: c.dice("validation") for c in of_task}
    if not scores or None in scores.values():
        raise CardError(f"{task}: expected cards with a Dice in validation, found {scores}")

    def order(card: Card) -> tuple[float, int, str]:
        simple = _SIMPLE_FIRST.index(card.method) if card.method in _SIMPLE_FIRST else len(_SIMPLE_FIRST)
        return -round(scores[card.name] or 0.0, 3), simple, card.name

    best = min(of_task, key=order)
    for card in of_task:
        write_card(card.path, read_yaml(card.path) | {"recommended": card.name == best.name})
    return read(best.path)


def write_card(path: Path, content: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(content), sort_keys=False, width=120, allow_unicode=True, default_flow_style=None)
    write_text(path, "# Written by python -m distribution.adopt; what the keys mean: distribution/cards.py.\n" + text)


# what the run says


def _named(name: str) -> tuple[str, str]:
    for method in METHODS:
        task = name.removesuffix(f"_{method}")
        if task != name and task in TASKS:
            return task, method
    raise CardError(f"{name!r} is not a TASK_METHOD: tasks are {list(TASKS)}, methods are {list(METHODS)}")


def settings_of(run: Path, method: str) -> dict[str, Any]:
    """The merged config of the run.

    Raises:
        CardError: there is none, or it is another method's.
    """
    settings = read_yaml(existing(run / "bundle/configs/train.yaml", "Name the output_dir of a run"))
    target = read_yaml(ROOT / f"bundles/{method}/configs/train.yaml")["train"]["method"]["_target_"]
    if (found := settings["train"]["method"]["_target_"]) != target:
        raise CardError(f"{run} was trained by {found}, the name says {method}, which is {target}")
    return settings


def bare_weights(path: Path) -> Path:
    """A file of weights that is a bare state dict."""
    state = torch.load(existing(path, "Let the run end"), map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CardError(f"{path} is not a bare state dict")
    return path


def _figures(run: Path, part: str, names: Sequence[str]) -> dict[str, Any]:
    """The figures of the network that serves, and in short those of the others."""
    remedy = "Evaluate the run: configs/evaluate.yaml with the same --output_dir"
    summaries = {
        name: json.loads(existing(run / f"evaluation/{part}/{Path(name).stem}.json", remedy).read_text("utf-8"))
        for name in names
    }
    return figures_of(summaries, run / f"evaluation/{part}")


def figures_of(summaries: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """A card's figures from the summaries of each file of weights; ``folder``: where they lie."""
    serving = summary_of_today(summaries["model.pt"], str(folder))
    calibration = serving.get("calibration") or {}
    return {
        "cases": serving["cases"],
        "patients": serving["patients"],
        **{key: serving[key] for key in (*COUNTS, "empty_labels")},
        "unit": serving.get("unit", "mm"),
        **scores_of(serving, "mean"),
        "classes": {name: scores_of(serving, name) for name in serving["classes"]},
        "calibration": {key: _rounded(calibration[key]) for key in ("ece", "over") if key in calibration},
        "others": {name: scores_of(summaries[name], "mean") for name in summaries if name != "model.pt"},
        "interval": serving["interval"],
    }


def _validation(run: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluated validation score, else the one that chose the weights."""
    if (run / "evaluation/validation/model.json").is_file():
        return _figures(run, "validation", ["model.pt"])
    best = about.get("best in validation")
    return {"dice": {"mean": _rounded(best["score"])}, "epoch": best["epoch"]} if best else {}


def scores_of(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``dice`` and ``hd95`` of a class, or of ``mean``: mean and interval, over how many cases."""
    found = {"dice": summary["metrics"].get(f"dice_{name}"), "hd95": summary["metrics"].get(f"hd95_mm_{name}")}
    keys = ("mean", "low", "high", "cases")
    measured = {
        metric: value for metric, value in found.items() if value and value["mean"] is not None
    }  # no case without a missed structure
    return {metric: {key: _rounded(value[key]) for key in keys} for metric, value in measured.items()}


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _cases(run: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How many scans each part had, and which they were; a phantom's are drawn."""
    data_list = str(settings["data_list"])
    if data_list.startswith("phantom:"):
        path = Path(settings["dataset_dir"]) / f"phantom_{data_list.removeprefix('phantom:')}" / "list.json"
    else:
        path = Path(data_list)
    parts = json.loads(existing(path, f"{run} was trained on it").read_text(encoding="utf-8-sig"))
    counts = {part: len(parts.get(part, [])) for part in _PARTS}
    if data_list.startswith("phantom:"):
        return counts
    return counts | {"cases": {part: sorted(str(e["patient"]) for e in parts.get(part, [])) for part in _PARTS}}


def cost(run: Path) -> tuple[float, str, str]:
    """Minutes of training, the day it began, and this machine."""
    with existing(run / "metrics.csv", "Name the output_dir of a run").open(newline="", encoding="utf-8") as file:
        seconds = sum(float(row["seconds"]) for row in csv.DictReader(file))
    day = json.loads(existing(run / ".lock", "Name the output_dir of a run").read_text())["since"][:10]
    return round(seconds / 60, 1), day, f"{os.cpu_count()} cores, {platform.machine()}"


# what the repository says


def _facts(task: str) -> dict[str, str]:
    facts = read_yaml(Path(__file__).with_name("data_sets.yaml"))
    for name, known in facts.items():
        if task.startswith(name):
            return known
    raise CardError(f"{task}: the data's name, source, licence and attribution are not in distribution/data_sets.yaml")


def _default_task(method: str) -> str:
    data_list = str(read_yaml(ROOT / f"bundles/{method}/configs/train.yaml")["data_list"])
    return "phantom_" + data_list.removeprefix("phantom:")


def _task(task: str) -> dict[str, Any]:
    return read_yaml(ROOT / f"custom/tasks/{task}.yaml")


def differences(base: Mapping[str, Any], settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Ids whose values are not those of bundle and task, as the command line names them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if name in RunConfig.FREE or (key in base and base[key] == value):
            continue
        if isinstance(value, dict) and isinstance(base.get(key), dict) and base[key].keys() <= value.keys():
            found |= differences(base[key], value, f"{name}::")
        else:
            found[name] = value
    return found


def _commands(method: str, task: str, overrides: Mapping[str, Any], phantom: bool) -> list[str]:
    """Training and evaluation, said in a clone of the repository."""
    options = [] if phantom else ["--data_list", f"/data/{task}/list.json"]
    for key, value in overrides.items():
        options += [f"--{key}", value if isinstance(value, str) else json.dumps(value).replace('"', "'")]
    files = ["configs/train.yaml"] + ([] if _default_task(method) == task else [f"scripts/tasks/{task}.yaml"])
    end = "".join(f" {word if word.startswith('--') else shlex.quote(word)}" for word in options)
    return [
        f"cd bundles/{method}",
        f"python -m monai.bundle run training --config_file {_files(files)}{end}",
        f"python -m monai.bundle run --config_file {_files([*files, 'configs/evaluate.yaml'])}{end}",
    ]


def _files(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else '"[' + ",".join(f"'{file}'" for file in files) + ']"'


def _phantom_command(settings: Mapping[str, Any]) -> str:
    form = str(settings["data_list"]).removeprefix("phantom:")
    return f"python -m scripts.phantom {form} data/phantom_{form}"


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=True
    ).stdout.strip()


def read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def existing(path: Path, remedy: str) -> Path:
    if not path.is_file():
        raise CardError(f"{path} does not exist. {remedy}.")
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m distribution.adopt", description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="output_dir of a finished and evaluated run")
    parser.add_argument("name", nargs="?", help="TASK_METHOD")
    parser.add_argument("--recommend", metavar="TASK", help="mark the bundle of TASK with the best Dice in validation")
    parser.add_argument("--split", help="the command that made the data list")
    parser.add_argument("--commit", help="what it was trained with, 40 hex digits (default: that of this clone)")
    parser.add_argument("--minutes", type=float, help="of training (default: as the run says)")
    parser.add_argument(
        "--weights", nargs="+", metavar="FILE", help="files to take (default: every network that serves)"
    )
    for name in ("version", "date", "machine", "intended_use", "not_tested_on"):
        parser.add_argument(f"--{name}")
    options = vars(parser.parse_args(arguments))
    run, name, task = options.pop("run"), options.pop("name"), options.pop("recommend")
    if (name is None) == (task is None):
        parser.error("give RUN and NAME, or --recommend TASK")
    if name is not None:
        card = adopt(run, name, **options)
        print(f"{card.path}: Dice {card.dice('validation')} in validation, {card.dice('test')} in test; now say which "
              f"bundle of its task is recommended: python -m distribution.adopt --recommend {card.task}")  # fmt: skip
    if task is not None:
        print(f"{recommend(task).name} is recommended for {task}")


if __name__ == "__main__":
    show_plainly()
    main()
