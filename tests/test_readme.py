"""Every command that a README shows exists: its files, run ids, overrides and programs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import BUNDLES, ROOT
from monai.bundle import ConfigParser

READMES = [
    ROOT / "README.md",
    ROOT / "docs/annotate.md",
    ROOT / "docs/release.md",
    *[bundle / "docs/README.md" for bundle in BUNDLES],
]
OF_PROGRAMS = "patient model_file tracking from to sha256 version work restore recommend images".split()
MAKE = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)


def commands(readme: Path) -> list[str]:
    """Indented lines and inline code that begin as a command does."""
    text = readme.read_text()
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    lines += re.findall(r"`([^`\n]+)`", text)
    return [line for line in lines if re.match(r"(make|python|torchrun|cd) ", line)]


def bundle_arguments(command: str) -> dict[str, str] | None:
    words = shlex.split(command)
    if "monai.bundle" not in words:
        return None
    words = words[words.index("monai.bundle") + 1 :]
    if words[0] == "download":  # MONAI's own; tests/test_download.py runs it
        return None
    assert words[0] == "run", command
    run_id = words[1] if len(words) > 1 and not words[1].startswith("--") else "run"
    options = [w for w in words[1:] if w != run_id]
    return {"run_id": run_id, **{options[i].lstrip("-"): options[i + 1] for i in range(0, len(options), 2)}}


@pytest.mark.parametrize("readme", READMES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_exists(readme):
    found = commands(readme)
    assert len(found) >= 4
    for command in found:
        words = shlex.split(command.split("#")[0])
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= set(MAKE), command
        elif words[0] == "cd":
            places = {f"bundles/{bundle.name}" for bundle in BUNDLES} | {"eval/bundle", "../.."}
            assert words[1] in places or words[1].startswith("bundles-downloaded/"), command
        elif words[:2] == ["python", "-m"] and words[2] != "monai.bundle":
            module = ROOT / words[2].replace("scripts.", "custom.", 1).replace(".", "/")
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), command
        else:
            check_bundle_command(command, readme.parents[1] if readme.parents[1] in BUNDLES else BUNDLES[0])


def check_bundle_command(command: str, bundle: Path) -> None:
    told = bundle_arguments(command)
    if told is None or "config_file" not in told:
        return  # `python -m monai.bundle run training` as a manner of speaking
    files = yaml.safe_load(told.pop("config_file"))
    paths = [str(bundle / name) for name in ([files] if isinstance(files, str) else files)]
    parser = ConfigParser(ConfigParser.load_config_files(paths))
    assert told.pop("run_id") in parser, command
    for key in told:
        assert key in parser, f"{command}: --{key}"


@pytest.mark.parametrize("readme", READMES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_override_and_link_exists(readme):
    text = readme.read_text()
    for key in re.findall(r"`--([\w:]+)", text):
        known = any(key in ConfigParser(ConfigParser.load_config_files(str(b / "configs/train.yaml"))) for b in BUNDLES)
        assert known or key in OF_PROGRAMS, key
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (readme.parent / link).exists(), link


def test_nothing_is_left_to_fill_in():
    assert [path.name for path in READMES if "@@" in path.read_text() or "\nRESULT" in path.read_text()] == []
