"""The documents of a released bundle: ``docs/README.md``, a model card, and ``docs/data_license.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from custom.evaluation.case_report import fault_texts
from custom.markdown import table

from .cards import ROOT, Card

REPOSITORY_LICENCE = "Apache-2.0"
UNKNOWN = "0" * 40  # in the place of a commit that nobody knows


def readme(card: Card, settings: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The model card: what the bundle is for, commands that work as unpacked, figures, data, training.

    Args:
        card: of the bundle.
        settings: the plain ids of its ``train.yaml``, resolved.
        metadata: its ``metadata.json``.
    """
    sections = [
        _head(card, settings, metadata),
        _use(card, settings),
        _scans(card, settings),
        _measured(card),
        _data(card),
        _training(card, settings),
        _method(card),
        _limits(card),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def data_license(card: Card) -> str:
    """Return what the data's terms ask of whoever passes the weights on."""
    data = card.data
    return f"""\
Weights in models/ were trained on

    {data["name"]}
    {data["source"]}
    Licence: {data["licence"]}
    {_line(data["attribution"])}

The weights ({", ".join(card.weights)}, model.ts, model.onnx) are passed on under {data["licence"]}, with this attribution.
The code in scripts/ and configs/ is under {REPOSITORY_LICENCE}, see LICENSE. No scan and no label is in this bundle.
"""


def _head(card: Card, settings: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    test = card.figures["test"]
    classes = ", ".join(settings["classes"][1:])
    called = f"{judged_otherwise(card)[0]} Dice of {judged_otherwise(card)[1]}" if _of_study(card) else "Test Dice"
    figure = f"{called} {interval(test['dice'], 3)}, {test['cases']} scans. " if "dice" in test else ""
    needs = " ".join(f'"{name}>={version}"' for name, version in metadata["required_packages_version"].items())
    return f"""\
# {card.name} {card.version}

{metadata["description"]} Here: {classes}, from {" and ".join(settings["channels"])}, {settings["dimensions"]}D. {figure}{_line(card.intended_use)}

    pip install "torch=={metadata["pytorch_version"]}" "monai=={metadata["monai_version"]}" "numpy>={metadata["numpy_version"]}" {needs}"""  # noqa: E501


def _use(card: Card, settings: Mapping[str, Any]) -> str:
    form = _form(settings)
    channels, colours = settings["channels"], ["red", "green", "blue"]
    several = f" Each modality in a folder of its own below it: {', '.join(channels)}." if len(channels) > 1 else ""
    several = " They are pictures in colour." if channels == colours else several
    draw = ""
    if form:
        draw = f"""
Draw the phantom first, which takes a minute; its scans are what inference reads where no `--dataset_dir` is given:

    python -m scripts.phantom {form} data/phantom_{form}
"""
    need = "" if form else " --data_list /data/list.json"
    return f"""\
## Use

All commands in the unpacked folder (`cd {card.name}`).
{draw}
Segment a folder of images; each result lies on the grid of its image.{several}

    python -m monai.bundle run --config_file configs/inference.yaml --dataset_dir /data/images --output_dir /data/predictions

Train further on your scans, labelled and unlabelled, from these weights (`--initial_weights ''`: from nothing); the finished bundle
is `eval/bundle`:

    python -m monai.bundle run training --config_file configs/train.yaml{need}

Score every network of that run on the test part of the list, whole cases, distances in {_unit(card)}. Without a run in `eval/` the weights
of this bundle are scored:

    python -m monai.bundle run --config_file "['configs/train.yaml','configs/evaluate.yaml']"{need}

In Python, from anywhere (`configs/*.json` are the YAML files once more, for what reads JSON alone; edit the YAML):

    from monai.bundle import load
    network = load("{card.name}", bundle_dir="/the/folder/above")     # with its weights

Nothing else is needed: `configs/train.*` and `configs/inference.*` put this folder on `sys.path` when they are initialised and
when they run, and forget the `scripts` of another bundle used before in the same process. Networks of several bundles can be
used side by side, workflows one after the other. `models/model.ts` (TorchScript) and `models/model.onnx` compute what
`models/model.pt` does, for patches of {settings["patch"]} voxels (ONNX: that size alone, one at a time).

A bundle is code: read it before you run it."""  # noqa: E501


def _scans(card: Card, settings: Mapping[str, Any]) -> str:
    resampled = ""
    if "spacing_mm" in settings:
        spacing = " x ".join("as it is" if s < 0 else f"{s:g}" for s in settings["spacing_mm"])
        resampled = f" Images are resampled to {spacing} {_unit(card)};"
    return f"""\
## Your own scans

NIfTI, DICOM series, NRRD, MHA, PNG, JPEG.{resampled} {"label" if resampled else "Label"} files hold
{", ".join(f"{v} {c}" for v, c in zip(settings["label_values"], settings["classes"], strict=True))}. A list is one JSON file:

    {{"labelled":   [{{"patient": "p01", "image": "images/p01.nii.gz", "label": "labels/p01.nii.gz"}}],
     "unlabelled": [{{"patient": "p09", "image": "images/p09.nii.gz"}}],
     "validation": [...], "test": [...]}}

From two folders whose files have the same names, split by patient, and checked:

    python -m scripts.cohort make --images /data/images --labels /data/labels --labelled 5 --validation 5 --test 20 --seed 0 --out /data/list.json
    python -m scripts.cohort check /data/list.json"""  # noqa: E501


def _measured(card: Card) -> str:
    test, validation = card.figures["test"], card.figures["validation"]
    if "dice" not in test:
        return "## Measured\n\nNothing."
    rows = [[name, *_cells(scores)] for name, scores in test.get("classes", {}).items()]
    rows.append(["mean", *_cells(test)])
    rows += [[f"mean of {name}", *_cells(scores)] for name, scores in test.get("others", {}).items()]
    scores = table(["class", "Dice (interval)", f"HD95, {_unit(card)} (interval)"], rows, texts=3)
    calibration = test.get("calibration") or {}
    ece = f"{calibration['ece']:.3f} over {calibration['over']}" if "ece" in calibration else "not measured"
    chosen = (
        f" Mean Dice in validation, which chose the epoch: {validation['dice']['mean']:.3f}."
        if "dice" in validation
        else ""
    )
    faults = fault_texts(test, test["cases"] * len(test["classes"]))
    return f"""\
## Measured

{_judged(test)} Whole
scans on their own grid, without post-processing. Missed: {faults["missed"]} structures of
the labels; false alarms: {faults["false_alarms"]} classes that labels lack.{chosen}

{scores}

Interval: {test.get("interval", "not measured")}. Calibration: expected calibration error {ece}."""


def _of_study(card: Card) -> bool:
    """Whether the figures are those of a study: of other networks than the one that is passed on."""
    return bool(card.figures["test"].get("judged"))


def judged_otherwise(card: Card) -> tuple[str, str]:
    """How a study's figures were obtained, and on whom, which is not a test of the weights that are passed on; two
    empty texts where it is one."""
    if not _of_study(card):
        return "", ""
    held_out = str(card.figures["test"]["judged"]).startswith("held out")
    return ("Held-out", "another network") if held_out else ("Cross-validated", "other networks")


def _judged(test: Mapping[str, Any]) -> str:
    """Which scans judged which weights; a study's card says it in words of its own."""
    scans = f"{test['cases']} scans of {test['patients']} patients"
    own = " ".join(str(test.get("judged", "")).split())
    return (
        f"{scans}, {own}"
        if own
        else f"On the test part, {scans} that neither training nor any choice has seen; weights of `models/model.pt`."
    )


def _data(card: Card) -> str:
    data = card.data
    cases = data.get("cases", {})
    lists = [f"- {part}: {', '.join(cases[part])}" for part in ("labelled", "validation", "test") if part in cases]
    rest = "\n\nThe rest were unlabelled. Do not measure this bundle on a scan that it was trained on:\n\n" + "\n".join(
        lists
    )
    return f"""\
## Data

{data["name"]}, {data["source"]}; {data["licence"]} (`data_license.txt`). {data["labelled"]} labelled and {data["unlabelled"]} unlabelled scans, {_used(card)}. Split:

    {_line(data["split"]).replace("custom.", "scripts.")}{rest if cases else ""}"""  # noqa: E501


def _used(card: Card) -> str:
    """What the scans were used for; a study's labelled ones trained what is passed on, all of them."""
    data = card.data
    if not _of_study(card):
        return f"{data['validation']} for\nvalidation, {data['test']} for testing, by patient"
    return (
        f"the labelled ones all\ntrained `models/model.pt`; {data['test']} of them judged other networks, which had not seen "
        "their patients"
    )


def _training(card: Card, settings: Mapping[str, Any]) -> str:
    training = card.training
    batch = f"{settings['labelled_batch']} labelled"
    if "unlabelled_batch" in settings:
        batch += f" and {settings['unlabelled_batch']} unlabelled"
    hashes = "\n".join(f"    {digest}  models/{name}" for name, digest in card.weights.items())
    commands = "\n".join(f"    {command}" for command in training["commands"])
    return f"""\
## Training

{settings["steps"]} steps of {batch} patches of {settings["patch"]} voxels, learning rate {settings["learning_rate"]}, seed {training["seed"]};
{training["date"]}, {training["minutes"]} minutes, {training["machine"]}. {_run(card)}:

{commands}

SHA-256 of the weights:

{hashes}"""  # noqa: E501


def _run(card: Card) -> str:
    """Where the commands of the training run, and by which code."""
    commit = card.training["commit"]
    if not _of_study(card):
        return (
            f"Run in a clone of the repository at commit\n`{commit}` (not here, where task and numbers are merged in)"
        )
    code = f"the code of commit\n`{commit}`" if commit != UNKNOWN else "code of an unknown commit (there was no git)"
    return f"`scripts/` is {code}. Task and numbers are merged into `configs/train.yaml`: from nothing, in the unpacked folder"


def _method(card: Card) -> str:
    """What the method's own page says before its commands."""
    page = (ROOT / f"bundles/{card.method}/docs/README.md").read_text(encoding="utf-8")
    title, _, text = page.partition("## Commands")[0].partition("\n")
    text = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)  # links into the repository
    files = " and ".join(f"`models/{name}`" for name in card.weights)
    here = f"""Of the weight files that it names, {files} came with this bundle. The page describes the method as it is now;
`configs/train.yaml` is the form in which these weights were trained, and `models/model.pt` is what that training served."""
    return f"## Method: {title.removeprefix('#').strip()}\n\n{here}\n{text}"


def _limits(card: Card) -> str:
    return f"""\
## Limits

**Intended use.** {_line(card.intended_use)}

**Not tested on.** {_line(card.not_tested_on)}"""


def _unit(card: Card) -> str:
    """Unit of distances; pictures have no millimetres."""
    return str(card.figures["test"].get("unit", "mm"))


def _form(settings: Mapping[str, Any]) -> str:
    data_list = str(settings["data_list"])
    return data_list.removeprefix("phantom:") if data_list.startswith("phantom:") else ""


def _cells(scores: Mapping[str, Any]) -> Iterator[str]:
    for metric, digits in (("dice", 3), ("hd95", 1)):
        yield interval(scores[metric], digits) if metric in scores else "none"


def interval(score: Mapping[str, Any], digits: int) -> str:
    """``0.849 (0.835 to 0.861)``, or the mean alone where no interval is known."""
    text = f"{score['mean']:.{digits}f}"
    return f"{text} ({score['low']:.{digits}f} to {score['high']:.{digits}f})" if score.get("low") is not None else text


def _line(text: str) -> str:
    return " ".join(text.split())
