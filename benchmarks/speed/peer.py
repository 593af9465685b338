"""The same training as the field's public programs write it: the worker.

Written here from their habits, not from their sources: a data set that augments sample by sample on the CPU, in loader workers
that start anew every epoch; float32, contiguous layout; a moving average parameter by parameter; every scalar logged every step
through ``.item()``; validation volume by volume with distance transforms of the whole volume. Network, losses, optimiser, and the
kinds, ranges and probabilities of augmentation and CutMix are those of our ``supervised`` and ``mean_teacher``.

What is not theirs: rotation and zoom are two resamplings, one after the other; patches lie anywhere, none round a class; the
teacher sees the unlabelled patches alone; labelled and unlabelled patches are normalised as one batch; the learning rate is
constant.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from custom.losses import ConsistencyLoss
from custom.networks import UNet

from .phases import Clock
from .turns import answer, keep_stdout, wait

Pair = tuple[np.ndarray, np.ndarray]
WORKERS, DECAY = 2, 0.99


@dataclass(frozen=True)
class Law:
    """Intensities of a view: how often each changes, and between which numbers; the probability of a blur.

    Args:
        often: of gamma, contrast and brightness each.
        gamma, factor: lowest and highest, log-uniform; ``factor`` of contrast and brightness.
        noise, blur: how often.
    """

    often: float
    gamma: tuple[float, float]
    factor: tuple[float, float]
    noise: float
    blur: float


# As bundles/mean_teacher/configs/train.yaml has them.
WEAK = Law(often=0.3, gamma=(0.7, 1.5), factor=(0.75, 1.25), noise=0.2, blur=0.0)
STRONG = Law(often=0.8, gamma=(0.5, 2.0), factor=(0.5, 1.5), noise=0.3, blur=0.5)
NOISE, SIGMA = 0.1, (0.5, 1.5)
MIXED, SHARE, ASPECT = 0.5, (0.02, 0.4), 10 / 3


class Samples(Dataset):
    """Patches with labels, augmented one by one; strong views where there are to be some."""

    def __init__(self, scans: list[Pair], patch: list[int], count: int, strong: bool) -> None:
        self.scans, self.patch, self.count, self.strong = scans, patch, count, strong

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(torch.initial_seed() + index)
        image, label = self._cut(*self.scans[index % len(self.scans)], rng)
        image, label = self._turn(image, label, rng)
        found = {"image": intensities(image, rng, WEAK), "label": label}
        if self.strong:
            found["strong"] = intensities(image, rng, STRONG)
        return {key: torch.from_numpy(np.ascontiguousarray(value))[None] for key, value in found.items()}

    def _cut(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Pair:
        pad = [(0, max(0, side - n)) for n, side in zip(image.shape, self.patch, strict=True)]
        image, label = np.pad(image, pad), np.pad(label, pad)
        at = [int(rng.integers(0, n - side + 1)) for n, side in zip(image.shape, self.patch, strict=True)]
        box = tuple(slice(a, a + side) for a, side in zip(at, self.patch, strict=True))
        return image[box], label[box]

    def _turn(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> Pair:
        if rng.random() < 0.5:
            angle = rng.uniform(-180, 180)
            image = ndimage.rotate(image, angle, axes=(0, 1), reshape=False, order=1)
            label = ndimage.rotate(label, angle, axes=(0, 1), reshape=False, order=0)
        if rng.random() < 0.4:
            zoom = 1 / math.exp(rng.uniform(math.log(0.7), math.log(1.4)))
            offset = [(1 - zoom) * (n - 1) / 2 for n in image.shape]
            image = ndimage.affine_transform(image, [zoom] * image.ndim, offset, order=1)
            label = ndimage.affine_transform(label, [zoom] * label.ndim, offset, order=0)
        for axis in range(image.ndim):
            if rng.random() < 0.5:
                image, label = np.flip(image, axis), np.flip(label, axis)
        return image, label


def intensities(image: np.ndarray, rng: np.random.Generator, law: Law) -> np.ndarray:
    """A changed copy of a patch, float32."""
    image = np.clip(image, 0, None)
    if rng.random() < law.often:
        image = image ** _log_uniform(law.gamma, rng)
    if rng.random() < law.often:
        image = (image - image.mean()) * _log_uniform(law.factor, rng) + image.mean()
    if rng.random() < law.often:
        image = image * _log_uniform(law.factor, rng)
    if rng.random() < law.noise:
        image = image + rng.normal(0, rng.uniform(0, NOISE), image.shape)
    if rng.random() < law.blur:
        image = ndimage.gaussian_filter(image, _log_uniform(SIGMA, rng), mode="nearest")
    return image.astype(np.float32)


def _log_uniform(ends: tuple[float, float], rng: np.random.Generator) -> float:
    return math.exp(rng.uniform(math.log(ends[0]), math.log(ends[1])))


def boxes(patch: Sequence[int], batch: int, rng: np.random.Generator) -> list[tuple[slice, ...] | None]:
    """For each sample of a batch where it shows the one before it, or None."""
    found: list[tuple[slice, ...] | None] = []
    for _ in range(batch):
        if rng.random() >= MIXED:
            found.append(None)
            continue
        stretch = rng.uniform(-1, 1, len(patch)) * math.log(ASPECT) / 2
        factors = np.exp(stretch - stretch.mean()) * rng.uniform(*SHARE) ** (1 / len(patch))
        sides = [min(n, max(1, round(n * factor))) for n, factor in zip(patch, factors.tolist(), strict=True)]
        at = [int(rng.integers(0, n - side + 1)) for n, side in zip(patch, sides, strict=True)]
        found.append(tuple(slice(a, a + side) for a, side in zip(at, sides, strict=True)))
    return found


def drawn(dimensions: int, count: int, side: int = 176) -> list[Pair]:
    """Smooth random scans with three nested classes; what they show does not change what a step costs."""
    rng = np.random.default_rng(0)
    shape = (side, side) if dimensions == 2 else (side // 2, side // 2, side // 3)
    found = []
    for _ in range(count):
        field = ndimage.gaussian_filter(rng.normal(size=shape), 8).astype(np.float32)
        field = (field - field.min()) / (field.max() - field.min())
        found.append((field, np.digitize(field, [0.5, 0.65, 0.8]).astype(np.int64)))
    return found


def mix(values: torch.Tensor, mixing: Sequence[tuple[slice, ...] | None]) -> torch.Tensor:
    """``(B, C, *spatial)`` with the boxes of the samples before."""
    mixed = values.clone()
    for number, box in enumerate(mixing):
        if box is not None:
            inside = (slice(None), *box)
            mixed[number][inside] = values[number - 1][inside]
    return mixed


def surface_distances(found: np.ndarray, wanted: np.ndarray) -> float:
    """95 % of both directed distances, by distance transforms of the whole volume."""
    one, other = (mask ^ ndimage.binary_erosion(mask) for mask in (found, wanted))
    there = ndimage.distance_transform_edt(~other)[one]
    back = ndimage.distance_transform_edt(~one)[other]
    return float(np.percentile(np.hstack([there, back]), 95)) if there.size and back.size else 0.0


class Loop:
    """A plain training loop of supervised training (``teacher`` False) or of a mean teacher with strong, mixed views."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self.teacher = spec, spec["teacher"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.clock = Clock(self.device)
        dimensions = len(spec["patch"])
        self.net = UNet(dimensions, 1, 4, spec["widths"], spec["dropout"], norm=spec["norm"]).to(self.device)
        self.ema = copy.deepcopy(self.net)
        for parameter in self.ema.parameters():
            parameter.requires_grad_(False)
        self.clock.watch_networks(self.net, self.ema)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.03, momentum=0.9, nesterov=True, weight_decay=1e-4)
        self.supervised = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True)
        self.consistency = ConsistencyLoss()
        self.scans = drawn(dimensions, 8)
        self.volume = (
            drawn(3, 1)[0]
            if dimensions == 3
            else (np.stack([s[0] for s in self.scans]), np.stack([s[1] for s in self.scans]))
        )
        self.writer = SummaryWriter(tempfile.mkdtemp())
        self.step, self.rng = 0, np.random.default_rng(0)

    def epoch(self) -> dict[str, float]:
        """``spec["steps"]`` steps, the start of the loader's workers included, and a validation."""
        clock, steps, batch = self.clock, self.spec["steps"], self.spec["batch"]
        start = clock.now()
        loaders = [
            DataLoader(
                Samples(self.scans, self.spec["patch"], batch * steps, strong), batch, shuffle=True, num_workers=WORKERS
            )
            for strong in ([False, True] if self.teacher else [False])
        ]
        streams = [iter(loader) for loader in loaders]
        clock.add("data", clock.now() - start)
        for _ in range(steps):
            begun = clock.now()
            batches = [{k: v.to(self.device) for k, v in next(stream).items()} for stream in streams]
            clock.add("data", clock.now() - begun)
            self._step(batches)
        clock.timed("validation", self._validate)()
        return clock.take()

    def _step(self, batches: list[dict[str, torch.Tensor]]) -> None:
        clock, begun = self.clock, self.clock.now()
        labelled = batches[0]
        self.net.train()
        clock.in_step = True
        if self.teacher:
            strong, clean = batches[1]["strong"], batches[1]["image"]
            mixing = boxes(strong.shape[2:], len(strong), self.rng)
            mixed = mix(strong, mixing)
            logits = self.net(torch.cat([labelled["image"], mixed]))
            with torch.no_grad():
                target = self.ema(clean)
            target_mixed = mix(target, mixing)
            n = len(labelled["image"])
            unlabelled = self.consistency(logits[n:], target_mixed)
            loss = self.supervised(logits[:n], labelled["label"]) + unlabelled
        else:
            loss = self.supervised(self.net(labelled["image"]), labelled["label"])
        ended, clock.in_step = clock.now(), False
        clock.add("method", ended - begun)
        self.optimizer.zero_grad()
        loss.backward()
        backward = clock.now()
        clock.add("backward", backward - ended)
        self.optimizer.step()
        if self.teacher:
            for ours, theirs in zip(self.ema.parameters(), self.net.parameters(), strict=True):
                ours.data.mul_(DECAY).add_(theirs.data, alpha=1 - DECAY)
        optimised = clock.now()
        clock.add("optimiser and average", optimised - backward)
        self.step += 1
        self.writer.add_scalar("loss", loss.item(), self.step)
        if self.teacher:
            self.writer.add_scalar("consistency", unlabelled.item(), self.step)
        self.writer.add_scalar("rate", self.optimizer.param_groups[0]["lr"], self.step)
        clock.add("logging", clock.now() - optimised)

    @torch.no_grad()
    def _validate(self) -> None:
        self.net.eval()
        volume, label = self.volume
        if len(self.spec["patch"]) == 2:  # slice by slice
            found = np.stack([
                self.net(torch.from_numpy(plane[None, None]).to(self.device)).argmax(1)[0].cpu().numpy() for plane in volume
            ])  # fmt: skip
        else:
            found = (
                self.net(torch.from_numpy(volume[None, None, :80, :80, :48]).to(self.device)).argmax(1)[0].cpu().numpy()
            )
            label = label[:80, :80, :48]
        for value in (1, 2, 3):
            surface_distances(found == value, label == value)


def main(spec: dict[str, Any]) -> None:
    """Every turn is an epoch."""
    keep_stdout()
    torch.manual_seed(0)
    loop = Loop(spec)
    while True:
        wait()
        phases = loop.epoch()
        phases["losses"] = phases.pop("method") - phases.get("student forward", 0) - phases.get("teacher forward", 0)
        answer(phases=phases, steps=spec["steps"], logged=spec["steps"], format="torch.float32")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
