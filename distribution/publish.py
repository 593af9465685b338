"""``python -m distribution.publish NAME --to hf:OWNER/NAME [--dry-run]``: the folder of a Hugging Face model page.

It is made of the built archive (``python -m distribution.build``), and holds what the two ways to fetch it want:

    the unpacked bundle          python -m monai.bundle download --name NAME --source huggingface_hub --repo OWNER/NAME
    NAME_vVERSION.zip            python -m distribution.download NAME --from hf:OWNER/NAME
    SHA256SUMS
    README.md                    the model card, with the front matter that the page is listed by

The one command that uploads it is printed; without ``--dry-run`` it is run as well, where the ``hf`` program is there.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

from custom.errors import UserError

from . import archive, cards, contents, sources
from .cards import Card
from .model_card import judged_otherwise
from .packing import digest
from .sources import SUMS
from .transfer import DownloadError

DIST = Path("dist")
PAGES = Path("build/huggingface")
LICENCES = (
    "apache-2.0",
    "mit",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
)  # as it names them
METRICS = {"dice": "Dice", "hd95": "HD95 ({unit})"}  # of a card's figures: the name on the page


class PublishError(UserError, RuntimeError):
    """There is nothing to publish, or no place for it."""


def page(card: Card, dist: Path, pages: Path) -> Path:
    """Write the folder ``pages/NAME``, whole or not at all; an earlier one is replaced.

    Args:
        card: of the bundle.
        dist: holds its archive and ``SHA256SUMS``.
        pages: the folder of all pages.

    Raises:
        PublishError: the archive was not built; something else stands in the place of the folder.
        UserError: the archive is not the one of ``SHA256SUMS``, or one that nobody could download.
    """
    zipped = dist / f"{card.release}.zip"
    if not zipped.exists() or not (dist / SUMS).exists():
        raise PublishError(f"{zipped} or {dist / SUMS} is missing: build it first, python -m distribution.build.")
    known = sources.parse_sums((dist / SUMS).read_text(encoding="utf-8"), str(dist / SUMS)).get(zipped.name)
    found = digest(zipped)
    if found != known:
        raise DownloadError(f"{zipped}: sha256 is {found}, {SUMS} has {known}. Build again: nothing was written.")
    folder = pages / card.name
    if folder.exists() and not (folder / SUMS).exists():
        raise PublishError(f"{folder} is not a page of a bundle: it would be replaced. Move it away.")
    pages.mkdir(parents=True, exist_ok=True)
    new = pages / f".{card.name}.new"
    shutil.rmtree(new, ignore_errors=True)
    try:
        archive.unpack(zipped, card.name, new)
        contents.check(new, Version(card.version))
        shutil.copyfile(zipped, new / zipped.name)
        (new / SUMS).write_text(f"{found}  {zipped.name}\n", encoding="utf-8")
        text = (new / "docs/README.md").read_text(encoding="utf-8")
        (new / "README.md").write_text(front_matter(card) + text, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def front_matter(card: Card) -> str:
    """The YAML between two lines ``---`` by which Hugging Face lists the page."""
    test = card.figures["test"]
    how, of = judged_otherwise(card)
    behind = f" ({how.lower()}, of {of})" if how else ""
    metrics = [
        {"type": key, "name": name.format(unit=test.get("unit", "mm")) + behind, "value": test[key]["mean"]}
        for key, name in METRICS.items()
        if isinstance((test.get(key) or {}).get("mean"), (int, float))
    ]
    data = card.data["name"]
    task = {"type": "image-segmentation", "name": "Semi-supervised segmentation"}
    split = {} if how else {"split": "test"}  # none of a study's scans is left to test what is passed on
    result = {"task": task, "dataset": {"type": _slug(data), "name": data, **split}, "metrics": metrics}
    header: dict[str, Any] = {
        **_licence(card.data["licence"]),
        "library_name": "monai",
        "pipeline_tag": "image-segmentation",
        "tags": ["monai", "medical", "segmentation", "semi-supervised", card.method, card.task],
        "datasets": [_slug(data)],
        "metrics": [metric["type"] for metric in metrics],
        "model-index": [{"name": card.name, "results": [result] if metrics else []}],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n"


def upload_command(card: Card, folder: Path, repository: str) -> list[str]:
    """Makes the page the folder and nothing else: what an earlier version had more is removed."""
    options = ["--repo-type", "model", "--delete", "*", "--commit-message", f"{card.name} {card.version}"]
    return ["hf", "upload", repository, str(folder), ".", *options]


def _licence(data: str) -> dict[str, str]:
    """Weights follow the terms of their data, which are never wider than those of the code (LICENSE, beside them)."""
    if data.lower() in LICENCES:
        return {"license": data.lower()}
    return {"license": "other", "license_name": _slug(data), "license_link": "docs/data_license.txt"}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m distribution.publish", description="Put a bundle on a model page.")
    parser.add_argument("name", metavar="NAME", help="of a pretrained bundle")
    parser.add_argument("--to", required=True, type=_repository, metavar="hf:OWNER/NAME")
    parser.add_argument(
        "--cards", type=Path, default=cards.PRETRAINED, help="folder of the cards; that of this repository"
    )
    parser.add_argument("--dry-run", action="store_true", help="write the folder, upload nothing")
    parser.add_argument("--dist", type=Path, default=DIST, help=f"where the archives were built; {DIST}")
    parser.add_argument("--pages", type=Path, default=PAGES, help=f"where the folder is written; {PAGES}")
    options = parser.parse_args(arguments)
    try:
        card = cards.card(options.name, options.cards)
        folder = page(card, options.dist, options.pages)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    command = upload_command(card, folder, options.to)
    print(f"{folder} is the page. This uploads it:\n\n    {shlex.join(command)}\n")
    if options.dry_run:
        return 0
    if shutil.which(command[0]) is None:
        missing = "there is no program hf here: pip install huggingface_hub, hf auth login, then the line above."
        print(f"error: {missing}", file=sys.stderr)
        return 1
    return subprocess.run(command, check=False).returncode


def _repository(text: str) -> str:
    found = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)", text, re.ASCII)
    if not found:
        raise argparse.ArgumentTypeError(f"{text}: expected hf:OWNER/NAME")
    return found[1]


if __name__ == "__main__":
    sys.exit(main())
