"""The pretrained bundles with their figures.

    python -m distribution.list [NAME ...]

With a name: how its weights were trained, and their SHA-256.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from custom.errors import show_plainly
from custom.markdown import table

from .cards import MAX_TOTAL, PRETRAINED, ROOT, Card, card, cards
from .model_card import interval


def overview(folder: Path = PRETRAINED) -> str:
    """A table of all cards, and how much their weights weigh."""
    found = cards(folder)
    head = "bundle,version,labelled,validation Dice,test Dice (interval),HD95 (interval),MB,licence".split(",")
    total = total_bytes(found)
    rows = [list(_row(one)) for one in found]
    return f"""\
{table(head, rows, texts=len(head))}

*: serves by default for its task, chosen on validation. Weights together {total / 1e6:.1f} MB of {MAX_TOTAL / 1e6:.0f} MB.
python -m distribution.list NAME says how one was trained, with its SHA-256."""


def details(one: Card) -> str:
    """Hashes, commit and commands of a card."""
    training = one.training
    hashes = [f"  {digest}  {_place(one, name)}" for name, digest in one.weights.items()]
    commands = [f"  {command}" for command in [one.data["split"], *training["commands"]]]
    return "\n".join([
        f"{one.release}: {training['date']}, {training['minutes']} minutes, {training['machine']}, seed {training['seed']}",
        f"commit {training['commit']}, in a clone of the repository:", *commands, "sha256:", *hashes,
    ])  # fmt: skip


def total_bytes(found: Sequence[Card]) -> int:
    """Size of all weights, each file once."""
    return sum(path.stat().st_size for path in {path for one in found for path in one.files} if path.is_file())


def _row(one: Card) -> Iterator[str]:
    test, validation = one.figures["test"], one.dice("validation")
    yield one.name + (" *" if one.recommended else "")
    yield one.version
    yield str(one.data["labelled"])
    yield "none" if validation is None else f"{validation:.3f}"
    yield interval(test["dice"], 3) if "dice" in test else "none"
    yield f"{interval(test['hd95'], 1)} {test.get('unit', 'mm')}" if "hd95" in test else "none"
    yield f"{total_bytes([one]) / 1e6:.1f}"
    yield one.data["licence"]


def _place(one: Card, name: str) -> str:
    path = one.models / name
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m distribution.list", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args(arguments)
    print("\n\n".join(details(card(name)) for name in options.names) or overview())


if __name__ == "__main__":
    show_plainly()
    main()
