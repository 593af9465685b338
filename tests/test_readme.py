"""The README's commands are run; those of the other pages exist: their files, run ids, overrides and programs."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from conftest import BUNDLES, ROOT, TINY, without_figures
from monai.bundle import ConfigParser

from custom.cohort.__main__ import parser_of_make

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *(bundle / "docs/README.md" for bundle in BUNDLES)]
OF_PROGRAMS = (
    "config_file patient task model_file tracking from to sha256 version work restore recommend images "
    "methods baseline data licence classes again no nnodes rdzv".split()
)
NOT_RUN = {
    "make demo": "trains for minutes; its texts are tested in tests/test_demo.py",
    "make test": "what runs this test",
    "make annotate": "an environment of 2 GB; tests/annotate starts the server",
    "python3 -m": "makes an environment",
    ".venv/bin/pip install": "fetches from the net",
}


def commands(page: Path) -> Iterator[list[list[str]]]:
    """The words of each command of a page's blocks, a list a block; comments and ``\\`` at a line's end are the shell's."""
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        lines = block.replace("\\\n", " ").splitlines()
        yield [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """What the README calls /data: scans of 30 patients with the classes of ACDC and of the phantom; a list of a few."""
    draw = np.random.default_rng(0)
    label = np.zeros((24, 24, 2), np.uint8)
    label[6:18, 6:18], label[8:16, 8:16], label[10:14, 10:14] = 1, 2, 3
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for patient in range(30):
        image = (40 * label + draw.integers(0, 60, label.shape)).astype(np.uint8)
        for folder, voxels in (("images", image), ("labels", label)):
            nifti = nibabel.Nifti1Image(voxels, np.diag([1.5, 1.5, 8.0, 1.0]))
            nibabel.save(nifti, tmp_path / f"data/{folder}/p{patient:02}_ED.nii.gz")
    names = iter(sorted(path.name for path in (tmp_path / "data/images").iterdir()))
    few = {
        part: [{"image": f"images/{name}", "label": f"labels/{name}"} for name in islice(names, 3)]
        for part in ("labelled", "unlabelled", "validation", "test")
    }
    (tmp_path / "data/few.json").write_text(json.dumps(few))
    return tmp_path / "data"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the repository as far as the commands read it: they write into it."""
    for folder in ("bundles", "custom"):
        no_runs = shutil.ignore_patterns("eval", "data", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / "clone" / folder, symlinks=True, ignore=no_runs)
    return tmp_path / "clone"


def test_every_command_of_the_readme_runs(
    clone: Path, scans: Path, bundle_cwd: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"/data": str(scans), "/runs": str(clone / "runs")}
    ran = 0
    for block in commands(ROOT / "README.md"):
        folder = clone
        for words in block:
            words = [re.sub(r"^/(data|runs)\b", lambda found: here[found[0]], word) for word in words]
            if words[0] == "cd":
                folder = (folder / words[1]).resolve()
            elif words[0] == "make":
                subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            elif " ".join(words[:2]) not in NOT_RUN:
                assert words[:2] == ["python", "-m"], words
                bundle_cwd(folder)
                monkeypatch.setattr(sys, "argv", [*words[2:], *tiny_run(words, folder, scans)])
                with without_figures() if "training" in words else nullcontext():  # half of the time are figures
                    run_module(words[2])
                ran += 1
    assert ran >= 9
    left = [
        *("mean_teacher/eval/bundle/models/model.pt", "mean_teacher/eval/evaluation/test/report.html"),
        "supervised/eval/evaluation/test/model.csv",
    ]
    assert [name for name in left if not (clone / "bundles" / name).is_file()] == []
    runs = ["a/bundle/models/model.pt", "compare.html", "mine/bundle/models/model.pt"]
    assert [name for name in runs if not (clone / "runs" / name).is_file()] == []
    assert (scans / "list.json").is_file()
    assert len(list((scans / "predictions").rglob("*.nii.gz"))) == 30


def tiny_run(words: list[str], folder: Path, scans: Path) -> list[str]:
    """Overrides that make a command with a config take seconds: few steps, small scans instead of the phantom."""
    if words[2] != "monai.bundle":
        return []
    files = yaml.safe_load(words[words.index("--config_file") + 1])
    config = ConfigParser.load_config_files(
        [str(folder / name) for name in ([files] if isinstance(files, str) else files)]
    )
    overrides: dict[str, Any] = {**TINY, "data_list": scans / "few.json", "inferer::roi_size": [32, 32]}
    small = {
        key: overrides[key]
        for key in overrides
        if key.split("::")[0] in config and (key == "steps" or f"--{key}" not in words)
    }
    return ["--logging_file=False", *(f"--{key}={value}" for key, value in small.items())]


def run_module(name: str) -> None:
    """``python -m NAME``, in this process: each would import torch and MONAI anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=False)
        except SystemExit as end:
            if end.code:
                raise AssertionError(f"python -m {sys.argv} ended with {end.code}") from None


def mentioned(page: Path) -> list[list[str]]:
    """Commands in indented lines and inline code: what the pages show beside the README's blocks."""
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    lines += re.findall(r"`([^`\n]+)`", text)
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(make|python|torchrun|cd) ", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_exists(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for words in mentioned(page):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= {*targets}, words
        elif words[0] == "cd":
            places = {f"bundles/{bundle.name}" for bundle in BUNDLES} | {"eval/bundle", "../.."}
            assert words[1] in places or words[1].startswith("bundles-downloaded/"), words
        elif "monai.bundle" in words:
            check_bundle_command(words, page.parents[1] if page.parents[1] in BUNDLES else BUNDLES[0])
        elif words[:2] == ["python", "-m"]:
            module = ROOT / words[2].replace("scripts.", "custom.", 1).replace(".", "/")
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), words


def check_bundle_command(words: list[str], bundle: Path) -> None:
    words = words[words.index("monai.bundle") + 1 :]
    if words[0] == "download":  # MONAI's own; tests/test_download.py runs it
        return
    run_id = words[1] if len(words) > 1 and not words[1].startswith("--") else "run"
    options = [word for word in words[1:] if word != run_id]
    overrides = {options[i].lstrip("-"): options[i + 1] for i in range(0, len(options), 2)}
    if "config_file" not in overrides:
        return  # `python -m monai.bundle run training` as a manner of speaking
    files = yaml.safe_load(overrides.pop("config_file"))
    paths = [str(bundle / name) for name in ([files] if isinstance(files, str) else files)]
    parser = ConfigParser(ConfigParser.load_config_files(paths))
    assert run_id in parser, words
    assert [key for key in overrides if key not in parser] == [], words


@cache
def configs() -> list[ConfigParser]:
    files = [["train.yaml", "evaluate.yaml"], ["inference.yaml"]]
    paths = [[str(bundle / "configs" / name) for name in names] for bundle in BUNDLES for names in files]
    return [ConfigParser(ConfigParser.load_config_files(names)) for names in paths]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_override_and_link_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    of_make = parser_of_make()._option_string_actions
    for key in re.findall(r"`--([\w:]+)", text):
        key = re.sub("^(weights::\\w+)::(value|ramp|from|until)$", r"\1", key)
        known = any(key in config for config in configs()) or key in OF_PROGRAMS or f"--{key}" in of_make
        assert known, key
    for link in [*re.findall(r"\]\(([\w./-]+)[)#]", text), *re.findall(r"^\[\w+\]: (\S+)", text, re.M)]:
        assert (page.parent / link).exists(), link


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 120] == []
