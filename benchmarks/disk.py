"""Patches a second from a volume on disk: our cache, what else could hold it, and memory.

    python -m benchmarks.disk                          20 volumes of 160 x 160 x 80, patches of 112 x 112 x 80, 64^3, 32^3

``zarr`` and ``blosc2`` are in the table where they are installed; nothing else here needs them. The files stay in the
system's memory, so this is the price of finding and unpacking, not of the disk. One thread, turns in between, the median of
rounds. Writes ``disk.md``. It asserts nothing: a time belongs to its machine.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from custom.errors import show_plainly
from custom.files import write_text
from custom.markdown import table
from custom.stream.cache import Cache
from custom.stream.scan import Scan

from .machine import machine

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (160, 160, 80)
PATCHES = ((112, 112, 80), (64, 64, 64), (32, 32, 32))
CHUNK = (32, 32, 32)
Box = tuple[slice, ...]
Read = Callable[[int, Box], Tensor]


def volumes(count: int, shape: Sequence[int] = SHAPE) -> list[Tensor]:
    """Smooth noise, ``(1, *shape)`` float16: it packs as scans do, a little."""
    found = []
    for number in range(count):
        noise = torch.rand(1, 1, *[side // 8 for side in shape], generator=torch.Generator().manual_seed(number))
        found.append(torch.nn.functional.interpolate(noise, size=list(shape), mode="trilinear")[0].half())
    return found


def readers(scans: Sequence[Tensor], folder: Path) -> dict[str, Read]:
    """How a box of a volume is read from each, by name; all of it is written before."""
    found: dict[str, Read] = {
        "memory": lambda number, box: scans[number][box],
        "our cache, memory maps": _ours(scans, folder),
    }
    found["torch.load(mmap=True)"] = _torch(scans, folder)
    found["monai.data.PersistentDataset"] = _persistent(scans, folder)
    for name, build in (("zarr 3", _zarr), ("blosc2", _blosc2)):
        try:
            found[name] = build(scans, folder)
        except ImportError:
            print(f"{name} is not installed: left out", file=sys.stderr)
    return found


def _ours(scans: Sequence[Tensor], folder: Path) -> Read:
    cache = Cache(folder / "ours")

    def again() -> Scan:
        raise AssertionError("nothing is removed here")

    kept = [
        cache.keep(f"{number:064d}", Scan(scan, None, torch.tensor([True])), again) for number, scan in enumerate(scans)
    ]
    return lambda number, box: kept[number].voxels()[0][box]


def _torch(scans: Sequence[Tensor], folder: Path) -> Read:
    for number, scan in enumerate(scans):
        torch.save({"image": scan}, folder / f"{number}.pt")
    return lambda number, box: torch.load(folder / f"{number}.pt", mmap=True, weights_only=True)["image"][box]


def _persistent(scans: Sequence[Tensor], folder: Path) -> Read:
    from monai.data import PersistentDataset

    data = [{"number": number} for number in range(len(scans))]
    kept = PersistentDataset(data, lambda case: {"image": scans[case["number"]]}, cache_dir=folder / "persistent")
    for number in range(len(scans)):
        kept[number]
    return lambda number, box: kept[number]["image"][box]


def _zarr(scans: Sequence[Tensor], folder: Path) -> Read:
    import zarr

    for number, scan in enumerate(scans):
        zarr.create_array(str(folder / f"{number}.zarr"), data=scan.numpy(), chunks=(1, *CHUNK))
    return lambda number, box: torch.from_numpy(
        np.asarray(zarr.open_array(str(folder / f"{number}.zarr"), mode="r")[box])
    )


def _blosc2(scans: Sequence[Tensor], folder: Path) -> Read:
    import blosc2

    for number, scan in enumerate(scans):
        blosc2.asarray(scan.numpy(), blocks=(1, *CHUNK), urlpath=str(folder / f"{number}.b2nd"), mode="w")
    return lambda number, box: torch.from_numpy(np.asarray(blosc2.open(str(folder / f"{number}.b2nd"))[box]))


def rate(read: Read, count: int, shape: Sequence[int], patch: Sequence[int], seconds: float, seed: int) -> float:
    """Patches a second, each copied to where a batch is."""
    chance, batch, done = np.random.default_rng(seed), torch.zeros(1, *patch), 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        corner = [int(chance.integers(side - length + 1)) for side, length in zip(shape, patch, strict=True)]
        box = (slice(None), *(slice(low, low + length) for low, length in zip(corner, patch, strict=True)))
        batch[:] = read(int(chance.integers(count)), box)
        done += 1
    return done / (time.perf_counter() - began)


def measure(count: int, rounds: int, seconds: float, folder: Path) -> dict[str, list[float]]:
    """The median of the rounds, of each patch size, by what is read from."""
    scans = volumes(count)
    found = readers(scans, folder)
    rates: dict[str, list[list[float]]] = {name: [[] for _ in PATCHES] for name in found}
    for seed in range(rounds):
        for column, patch in enumerate(PATCHES):
            for name, read in found.items():
                rates[name][column].append(rate(read, count, SHAPE, patch, seconds, seed))
    return {name: [statistics.median(column) for column in columns] for name, columns in rates.items()}


def page(rates: dict[str, list[float]], where: str, command: str) -> str:
    """Markdown."""
    heads = ["patches a second", *(" x ".join(map(str, patch)) for patch in PATCHES)]
    rows = [[name, *(f"{number:.0f}" for number in numbers)] for name, numbers in rates.items()]
    text = f"Volumes of {' x '.join(map(str, SHAPE))} in float16, files in the system's memory; {where}."
    return "\n\n".join(["# Patches from disk", text, f"    {command}", table(heads, rows)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    show_plainly()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disk", description="Patches a second from disk.")
    parser.add_argument("--volumes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(options.volumes, options.rounds, options.seconds, Path(folder))
    words = sys.argv[1:] if arguments is None else arguments
    where = f"{machine(1)}, load {os.getloadavg()[0]:.1f}, {datetime.date.today()}"
    text = page(rates, where, " ".join(["python -m benchmarks.disk", *words]))
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "disk.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
