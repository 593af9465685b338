"""Patches a second from a volume on disk: our cache, what else could hold it, and memory.

    python -m benchmarks.disk                          20 volumes of 160 x 160 x 80, patches of 112 x 112 x 80, 64^3, 32^3

``zarr`` and ``blosc2`` are in the table where they are installed; nothing else here needs them. Every file that can stay open
is opened once. "From memory": the files stay in the system's memory, so it is the price of finding and unpacking. "From disk":
the system is told to forget a file before each patch of it, as with a cohort larger than memory; how far that reaches is the
machine's affair. One thread, turns in between, the median of rounds. Writes ``disk.md``. It asserts nothing: a time belongs to
its machine.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Store:
    """How a box of a volume is read, and where the volume lies: a file, or a folder of them; None in memory."""

    read: Read
    places: Sequence[Path] | None = None

    def forget(self, number: int) -> None:
        """Ask the system to keep nothing of a volume in memory."""
        for path in _files(self.places[number]) if self.places else []:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # what is not written yet cannot be forgotten
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    @property
    def megabytes(self) -> float:
        """The mean size of a volume on disk; NaN in memory."""
        if not self.places:
            return math.nan
        return sum(path.stat().st_size for place in self.places for path in _files(place)) / len(self.places) / 1e6


def _files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]


def volumes(count: int, shape: Sequence[int] = SHAPE) -> list[Tensor]:
    """Smooth noise, ``(1, *shape)`` float16: it packs as scans do, a little."""
    found = []
    for number in range(count):
        noise = torch.rand(1, 1, *[side // 8 for side in shape], generator=torch.Generator().manual_seed(number))
        found.append(torch.nn.functional.interpolate(noise, size=list(shape), mode="trilinear")[0].half())
    return found


def stores(scans: Sequence[Tensor], folder: Path) -> dict[str, Store]:
    """How a box of a volume is read from each, by name; all of it is written before."""
    found = {
        "memory": Store(lambda number, box: scans[number][box]),
        "our cache, memory maps": _ours(scans, folder),
        "torch.load(mmap=True)": _torch(scans, folder),
        "monai.data.PersistentDataset": _persistent(scans, folder),
    }
    for name, build in (("zarr 3", _zarr), ("blosc2", _blosc2)):
        try:
            found[name] = build(scans, folder)
        except ImportError:
            print(f"{name} is not installed: left out", file=sys.stderr)
    return found


def _ours(scans: Sequence[Tensor], folder: Path) -> Store:
    cache = Cache(folder / "ours")

    def again() -> Scan:
        raise AssertionError("nothing is removed here")

    kept = [
        cache.keep(f"{number:064d}", Scan(scan, None, torch.tensor([True])), again) for number, scan in enumerate(scans)
    ]

    def read(number: int, box: Box) -> Tensor:
        kept[number].soon(-1, box[1:])
        return kept[number].voxels()[0][box]

    return Store(read, [each.path for each in kept])


def _torch(scans: Sequence[Tensor], folder: Path) -> Store:
    paths = [folder / f"{number}.pt" for number in range(len(scans))]
    for scan, path in zip(scans, paths, strict=True):
        torch.save({"image": scan}, path)
    return Store(lambda number, box: torch.load(paths[number], mmap=True, weights_only=True)["image"][box], paths)


def _persistent(scans: Sequence[Tensor], folder: Path) -> Store:
    from monai.data import PersistentDataset
    from monai.transforms import Transform

    class Load(Transform):  # the answer of what is not a Transform is not kept
        def __call__(self, case: dict[str, int]) -> dict[str, Tensor]:
            return {"image": scans[case["number"]]}

    place, paths = folder / "persistent", []
    data = [{"number": number} for number in range(len(scans))]
    kept = PersistentDataset(data, Load(), cache_dir=place)
    for number in range(len(scans)):
        before = set(_files(place))
        kept[number]
        paths += sorted(set(_files(place)) - before)
    return Store(lambda number, box: kept[number]["image"][box], paths)


def _zarr(scans: Sequence[Tensor], folder: Path) -> Store:
    import zarr

    paths = [folder / f"{number}.zarr" for number in range(len(scans))]
    for scan, path in zip(scans, paths, strict=True):
        zarr.create_array(str(path), data=scan.numpy(), chunks=(1, *CHUNK))
    opened = [zarr.open_array(str(path), mode="r") for path in paths]
    return Store(lambda number, box: torch.from_numpy(np.asarray(opened[number][box])), paths)


def _blosc2(scans: Sequence[Tensor], folder: Path) -> Store:
    import blosc2

    paths = [folder / f"{number}.b2nd" for number in range(len(scans))]
    for scan, path in zip(scans, paths, strict=True):
        blosc2.asarray(scan.numpy(), blocks=(1, *CHUNK), urlpath=str(path), mode="w")
    opened = [blosc2.open(str(path)) for path in paths]
    return Store(lambda number, box: torch.from_numpy(np.asarray(opened[number][box])), paths)


def rate(
    store: Store, count: int, shape: Sequence[int], patch: Sequence[int], seconds: float, seed: int, forget: bool
) -> float:
    """Patches a second, each copied to where a batch is; what forgetting takes does not count."""
    chance, batch, done, spent = np.random.default_rng(seed), torch.zeros(1, *patch), 0, 0.0
    while spent < seconds:
        number = int(chance.integers(count))
        corner = [int(chance.integers(side - length + 1)) for side, length in zip(shape, patch, strict=True)]
        box = (slice(None), *(slice(low, low + length) for low, length in zip(corner, patch, strict=True)))
        if forget:
            store.forget(number)
        began = time.perf_counter()
        batch[:] = store.read(number, box)
        spent += time.perf_counter() - began
        done += 1
    return done / spent


def measure(count: int, rounds: int, seconds: float, folder: Path) -> dict[str, list[float]]:
    """Megabytes a volume of each store, then the median of the rounds by patch size, from memory and from disk."""
    scans = volumes(count)
    found = stores(scans, folder)
    columns = [(patch, forget) for forget in (False, True) for patch in PATCHES]
    rates: dict[str, list[list[float]]] = {name: [[] for _ in columns] for name in found}
    for seed in range(rounds):
        for column, (patch, forget) in enumerate(columns):
            for name, store in found.items():
                if store.places or not forget:
                    rates[name][column].append(rate(store, count, SHAPE, patch, seconds, seed, forget))
    return {
        name: [found[name].megabytes, *(statistics.median(each) if each else math.nan for each in of)]
        for name, of in rates.items()
    }


def page(rates: dict[str, list[float]], where: str, command: str) -> str:
    """Markdown."""
    sides = [" x ".join(map(str, patch)) for patch in PATCHES]
    heads = ["", "MB a volume", *(f"from memory, {side}" for side in sides), *(f"from disk, {side}" for side in sides)]
    rows = [
        [name, _number(numbers[0], 1), *(_number(each, 0) for each in numbers[1:])] for name, numbers in rates.items()
    ]
    text = f"Patches a second of volumes of {' x '.join(map(str, SHAPE))} in float16; {where}."
    return "\n\n".join(["# Patches from disk", text, f"    {command}", table(heads, rows)]) + "\n"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


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
