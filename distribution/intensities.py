"""Write what shipped weights lack of the intensities that they were trained on, from the same scans.

    python -m distribution.intensities NAME [NAME ...] [--data_list LIST]

A training keeps this record beside its weights; those of earlier versions have none, and an image unlike all that they have seen
is then segmented without a word. The scans must be the card's, voxel by voxel; of a phantom its command is enough, as rounding
differs between processors.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from custom.cohort.intensities import FILE
from custom.errors import show_plainly
from custom.files import write_text

from .cards import PRETRAINED, ROOT, Card, CardError, read


def record(card: Card, data_list: str) -> dict[str, dict[str, Any]]:
    """The range of each number over the scans that a card's weights were trained on.

    Args:
        data_list: an absolute path; of a phantom, such as ``phantom:2d``.

    Raises:
        CardError: other scans than the card's.
    """
    from monai.bundle import ConfigParser

    bundle = ROOT / "bundles" / card.method
    if str(bundle) not in sys.path:
        sys.path.insert(0, str(bundle))  # the config names its classes below `scripts`
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs/train.yaml"), str(card.task_file)])
    with tempfile.TemporaryDirectory() as drawn:
        own = {"bundle_root": str(bundle), "dataset_dir": drawn, "data_list": data_list, "device": "cpu"}
        parser.update({**card.overrides, **own})
        banks, known = _banks(parser), card.data["sha256"]
        strangers = [bank.name for bank in banks if bank.digest() != known.get(bank.name)]
        if strangers and not data_list.startswith("phantom:"):
            raise CardError(f"{card.name}: {strangers[0]} scans of {data_list} are not those of the card. Give the list that its "
                            "weights were trained on, --data_list")  # fmt: skip
        from scripts.cohort.intensities import seen  # of the bundle, as the banks are

        return seen([bank.intensities(case) for bank in banks for case in range(len(bank))])


def _banks(parser: Any) -> list[Any]:
    names = [name for name in ("dataset", "unlabelled_dataset") if name in parser["train"]]
    return [parser.get_parsed_content(f"train::{name}") for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    show_plainly()
    parser = argparse.ArgumentParser(prog="python -m distribution.intensities", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("names", nargs="+", help="of pretrained bundles")
    parser.add_argument(
        "--data_list", default="", help="that they were trained on; a phantom's is taken from its commands"
    )
    options = parser.parse_args(arguments)
    for name in options.names:
        card = read(PRETRAINED / name / "card.yaml")
        found = record(card, os.path.abspath(options.data_list) if options.data_list else phantom_of(card))
        path = Path(card.models) / FILE
        write_text(path, json.dumps(found, indent=2) + "\n")
        print(path)
    return 0


def phantom_of(card: Card) -> str:
    """Where a phantom is named in a card's commands, or else by its task.

    Raises:
        CardError: it was not trained on one.
    """
    words = [word for command in card.training["commands"] for word in command.split() if word.startswith("phantom:")]
    if not words and not card.task.startswith("phantom_"):
        raise CardError(f"{card.name} was not trained on a phantom: give its list of scans, --data_list")
    return words[0] if words else card.task.replace("_", ":", 1)


if __name__ == "__main__":
    sys.exit(main())
