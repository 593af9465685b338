"""Validation while training: Dice of every network that a method serves, case by case, on the grid of the bank."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Evaluator
from monai.utils import fall_back_tuple
from torch import Tensor, nn

from .. import distributed
from ..dice import MEAN_DICE, class_dice, mean_dice, mean_of_known
from ..methods import Method
from ..networks.one_channel import HALF, channel_of, reads, thresholds_of
from ..pace import Pace
from ..run.mlflow import without_monais
from ..stream.bank import Bank
from . import memory
from .precision import autocast, autocast_dtype
from .statistics import CleanStatistics, applied

logger = logging.getLogger(__name__)

KEY_METRIC = "val_mean_dice"


def case_dice(pred: Tensor, label: Tensor, classes: int) -> list[float]:
    """:func:`~..dice.class_dice` of each foreground class.

    Args:
        pred, label: class indices of one case, the same shape.
        classes: K, background included.
    """
    masks = [(pred == k, label == k) for k in range(1, classes)]
    counts = torch.stack([torch.stack([(a & b).sum(), a.sum(), b.sum()]) for a, b in masks])
    return [class_dice(*voxels) for voxels in counts.tolist()]


def _cut(logits: Tensor, threshold: float) -> Tensor:
    """Classes ``(*spatial)`` of logits ``(K, *spatial)`` whose foreground needs so much probability beside a background of 0."""
    if threshold == HALF:
        return logits.argmax(dim=0)
    return torch.cat([logits[:1], logits[1:] - math.log(threshold / (1 - threshold))]).argmax(dim=0)


def together(dataset: Bank, cases: Sequence[int], inferer: Any) -> list[list[int]]:
    """Cases that go through a network at once, each of one window: neighbours of one shape that lack the same modalities, as
    many as the inferer's ``sw_batch_size``. A larger case, whose windows fill batches, and one of slices stands alone.
    """
    size, roi = int(getattr(inferer, "sw_batch_size", 1)), getattr(inferer, "roi_size", ())
    if size < 2 or dataset.cases.slices:
        return [[case] for case in cases]
    groups: list[list[int]] = []
    before: tuple | None = None
    for case in cases:
        shape = dataset.shape(case)
        of_these_axes = isinstance(roi, int) or len(roi) == len(shape)
        fits = of_these_axes and all(n <= window for n, window in zip(shape, fall_back_tuple(roi, shape), strict=True))
        kind = (shape, *dataset.present(torch.tensor([case]))[0].tolist()) if fits else None
        if kind is not None and kind == before and len(groups[-1]) < size:
            groups[-1].append(case)
        else:
            groups.append([case])
        before = kind
    return groups


class ServingEvaluator(Evaluator):
    """Scores every network of ``method.serving()`` on whole cases.

    After a run ``state.metrics`` holds ``val_mean_dice`` (the first network's :func:`~..dice.mean_dice`) and
    ``<network>/dice_mean``, ``<network>/dice_<class>`` (the mean over the cases whose label has it); ``scores`` is
    ``{network: dice_mean}`` and ``scored_epoch`` the epoch they belong to. Under DDP the cases are shared between the
    ranks and all ranks get all scores. Without cases nothing runs. A network that reads one modality is scored on the
    cases that have it; where none has, its scores are nan.

    Args:
        device: where the networks are.
        dataset: the validation scans.
        method: whose networks are scored.
        inferer: MONAI inferer that takes ``(B, C, *spatial)`` and a network.
        classes: names, background first.
        amp: as the trainer's.
        statistics: of clean labelled patches, which the networks carry while they are scored; None leaves them as they are.
        thresholds: probabilities from which on a voxel is a class's; each :class:`~..networks.OneChannel` network is scored
            at the one that gives it the highest Dice, the first of equal ones, which stands in ``chosen`` then. A map that
            was taught soft targets may know a structure and never reach 0.5. Other networks are cut at 0.5.
        val_handlers: MONAI or Ignite handlers of this engine.
    """

    def __init__(
        self,
        device: torch.device,
        dataset: Bank,
        method: Method,
        inferer: Callable[[Tensor, nn.Module], Tensor],
        classes: Sequence[str],
        amp: str = "off",
        val_handlers: Sequence | None = None,
        statistics: CleanStatistics | None = None,
        thresholds: Sequence[float] = (HALF,),
    ) -> None:
        if not thresholds or not all(0 < t < 1 for t in thresholds):
            raise ValueError(f"thresholds are one or more probabilities between 0 and 1, got {list(thresholds)}")
        ranks = distributed.world_size()
        shared = len(dataset) >= ranks  # fewer cases than ranks: every rank scores them all
        self._cases = range(distributed.rank(), len(dataset), ranks) if shared else range(len(dataset))
        super().__init__(device=device, val_data_loader=[], epoch_length=0, decollate=False)
        self.dataset, self.method, self.inferer, self.classes = dataset, method, inferer, list(classes)
        self.dtype = autocast_dtype(amp, torch.device(device))
        self._shared, self.pace = shared, Pace()  # lines of a long validation, which has no bar
        self.statistics = statistics
        self.thresholds = tuple(thresholds)
        self.chosen: dict[str, float] = {}
        self._rows: list[
            dict[str, list[list[float]] | None]
        ] = []  # a threshold, a class; None: the case lacks what is read
        self._unread: set[str] = set()
        self.scores: dict[str, float] = {}
        self.scored_epoch = 0
        self.state.key_metric_name = KEY_METRIC
        self.add_event_handler(Events.EPOCH_COMPLETED, ServingEvaluator._summarise)
        self._register_handlers(without_monais(val_handlers or []))

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        if len(self.dataset) == 0:
            return
        if self.scored_epoch == 0:
            logger.info("Validation, %s.", MEAN_DICE)
        self._rows = []
        self.data_loader = together(self.dataset, self._cases, self.inferer)
        self.state.epoch_length = len(self.data_loader)
        self.pace.begin()
        networks = self.method.serving()
        modes = {name: network.training for name, network in networks.items()}
        try:
            for network in networks.values():
                network.eval()
            with applied(self.statistics, networks):
                super().run(global_epoch)
        finally:
            for name, network in networks.items():
                network.train(modes[name])

    @torch.no_grad()
    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        cases = [self.dataset[index] for index in batchdata]
        device = torch.device(self.state.device)
        image = torch.stack([case["image"] for case in cases]).to(device)
        labels = [case["label"][0].to(device) for case in cases]
        rows: list[dict[str, list[list[float]] | None]] = [{} for _ in cases]
        for name, network in self.method.serving().items():
            if not reads(network, cases[0]["present"]):
                for row in rows:
                    row[name] = None
                continue
            under_way = partial(self._under_way, self.dataset.case_name(batchdata[0]), name)
            with autocast(self.dtype, device), memory.explained(under_way):
                logits = self.inferer(image, network)
            for row, of_case, label in zip(rows, logits, labels, strict=True):
                row[name] = [
                    case_dice(_cut(of_case, threshold), label, len(self.classes))
                    for threshold in thresholds_of(network, self.thresholds)
                ]
        self._rows += rows
        if self.pace.due():
            logger.info("validation: case %s", self.pace.left(len(self._rows), len(self._cases)))
        return {}

    @staticmethod
    def _under_way(case: str, network: str) -> str:
        return (
            f"while validating {case} with {network}. Lower inferer::sw_batch_size or inferer::roi_size; "
            "--resume true then goes on from the last checkpoint."
        )

    def _summarise(self) -> None:
        rows = distributed.gather(self._rows) if self._shared else self._rows
        metrics: dict[str, float] = {}
        self.scores, self.chosen = {}, {}
        networks = self.method.serving()
        for name in rows[0]:
            scored = [dice for row in rows if (dice := row[name]) is not None]
            if not scored:
                self._say_unread(name)
            known = self._at_the_best(name, scored, thresholds_of(networks[name], self.thresholds))
            a_class = [mean_of_known(dice[k] for dice in known) for k in range(len(self.classes) - 1)]
            self.scores[name] = mean_dice(known)
            metrics[f"{name}/dice_mean"] = self.scores[name]
            metrics.update({f"{name}/dice_{c}": d for c, d in zip(self.classes[1:], a_class, strict=True)})
        first = next(iter(self.scores.values()))
        self.state.metrics.update({KEY_METRIC: first, **metrics})
        self.scored_epoch = self.state.epoch
        if not math.isnan(first) and (self.state.best_metric_epoch == -1 or first > self.state.best_metric):
            self.state.best_metric, self.state.best_metric_epoch = first, self.state.epoch

    def _at_the_best(
        self, name: str, scored: Sequence[Sequence[Sequence[float]]], thresholds: Sequence[float]
    ) -> list[Sequence[float]]:
        """The Dice of each case at the threshold with the highest mean; one that was chosen among several is kept."""
        at = [[case[i] for case in scored] for i in range(len(thresholds))]
        means = [-1.0 if math.isnan(mean := mean_dice(known)) else mean for known in at]
        best = means.index(max(means))
        if len(thresholds) > 1:
            self.chosen[name] = thresholds[best]
        return at[best]

    def _say_unread(self, name: str) -> None:
        if name not in self._unread:
            channel = channel_of(self.method.serving()[name])
            modality = self.dataset.channels[channel] if channel is not None and self.dataset.channels else channel
            logger.warning("No validation case has %s: %s is not validated, its scores are nan.", modality, name)
            self._unread.add(name)
