"""``python -m custom.phantom FORM FOLDER``: draw one form of the phantom."""

from __future__ import annotations

import argparse
import logging

from ..files import typed
from . import FORMS, ensure


def main() -> None:
    """``python -m custom.phantom FORM FOLDER``"""
    parser = argparse.ArgumentParser(description="Draw a phantom cohort and print the path of its data list.")
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("folder", type=typed)
    parser.add_argument("--seed", type=int, default=2023)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(ensure(options.form, options.folder, options.seed))


if __name__ == "__main__":
    main()
