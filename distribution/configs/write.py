"""Write the configs of every bundle: templates of the base, filled with a method's fragment and its default task."""

from __future__ import annotations

import json
import os
import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .fragment import Fragment, read

HERE = Path(__file__).parent
FILES = ("train.yaml", "inference.yaml", "evaluate.yaml", "multi_gpu_train.yaml", "metadata.json", "logging.conf")
PUBLISHED = "published.yaml"
COMMENT = 27  # the column of a setting's comment
WIDTH = 120


def write(root: Path, bundles: Path | None = None) -> list[Path]:
    """Write ``configs/`` of every method that has a fragment; a new bundle gets ``LICENSE`` and the link ``scripts`` too.

    Args:
        root: of the repository: its ``custom/tasks`` and ``LICENSE`` are read.
        bundles: where to write; None is ``root/bundles``.

    Returns:
        the folders of the bundles.

    Raises:
        FragmentError: a fragment with a key too many or too few.
    """
    folders = []
    for path in sorted((HERE / "methods").glob("*.yaml")):
        folder = (bundles or root / "bundles") / path.stem
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        for name, text in texts(read(path), root / "custom/tasks").items():
            (folder / "configs" / name).write_text(text, encoding="utf-8")
        if not (folder / "LICENSE").exists():
            shutil.copyfile(root / "LICENSE", folder / "LICENSE")
        if not (folder / "scripts").exists():
            (folder / "scripts").symlink_to(os.path.join("..", "..", "custom"), target_is_directory=True)
        folders.append(folder)
    return folders


def texts(method: Fragment, tasks: Path) -> dict[str, str]:
    """The files of ``configs/`` by name."""
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    env.filters |= {"json": _json, "by_number": _by_number, "block": _block, "rule": _rule}
    parts = vars(env.get_template("parts.jinja").module)
    chunks = _chunks((tasks / f"{method.task}.yaml").read_text(encoding="utf-8"))

    def component(name: str) -> str:
        text = getattr(method, name) or parts[name]
        return env.from_string(str(text)).render(parts).strip("\n")

    def setting(name: str, comment: str) -> str:
        first, *rest = chunks[name].split("\n")
        return "\n".join([f"{first:{COMMENT - 1}} # {method.comments.get(name, comment)}", *rest])

    network = component("network")
    own = {name: text for name, text in _chunks(method.settings).items() if f"@{name}'" in network}
    context: dict[str, Any] = {
        "method": method,
        "header": _header(method),
        "task": yaml.safe_load("\n".join(chunks.values())),
        "setting": setting,
        "chunk": chunks.__getitem__,
        "network": network,
        "trains": component("method"),
        "optimizer": component("optimizer"),
        "lr_schedule": component("lr_schedule"),
        "own": [f"{text.split(' #')[0].rstrip():{COMMENT - 1}} # as in training" for text in own.values()],
    }
    files = [*FILES, *([PUBLISHED] if method.published else [])]
    return {name: env.get_template(name).render(context) for name in files}


def _chunks(text: str) -> dict[str, str]:
    """A YAML text by its top-level ids, each with its lines; a comment beside a one-line value is left to the base."""
    found = {}
    for match in re.finditer(r"^(\w+):.*\n(?:[ -].*\n)*", text, re.MULTILINE):
        lines = match[0].rstrip("\n").split("\n")
        found[match[1]] = "\n".join(lines) if len(lines) > 1 else re.sub(r"\s+#.*", "", lines[0])
    return found


def _header(method: Fragment) -> str:
    about = (
        f"{method.header} As it stands this file trains on a phantom in a few minutes; what to expect: docs/README.md."
    )
    return "\n".join(textwrap.wrap(" ".join(about.split()), WIDTH, initial_indent="# ", subsequent_indent="# "))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _by_number(names: Sequence[str]) -> str:
    return _json({str(number): name for number, name in enumerate(names)})


def _block(text: str, columns: int) -> str:
    """A component below its key, or after it where it is one line in braces."""
    return f" {text}" if text.startswith("{") else "\n" + textwrap.indent(text, " " * columns)


def _rule(title: str) -> str:
    return f"# {title} ".ljust(WIDTH, "-")
