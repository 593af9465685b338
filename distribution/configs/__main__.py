"""``python -m distribution.configs``: write the configs of every bundle from the base and the methods' fragments."""

from __future__ import annotations

from pathlib import Path

from .write import write

if __name__ == "__main__":
    for folder in write(Path(__file__).resolve().parents[2]):
        print(folder)
