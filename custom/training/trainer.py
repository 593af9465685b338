"""The trainer that feeds a labelled and an unlabelled stream to a method, and knows nothing of any method."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Trainer, Workflow
from monai.utils.enums import CommonKeys
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import distributed
from ..cohort.intensities import Intensities, nonsense, odd_summary, outside_training, seen
from ..cohort.overlaps import refuse_overlaps
from ..methods import Method
from ..methods.batch import Batch
from ..methods.halves import check_pairs
from ..methods.schedule import PolyDecay, Progress, TermWeights
from ..networks.one_channel import cut
from ..run.mlflow import ours_for_monais
from ..run.output import Output
from ..seeds import derive
from ..stream.bank import Bank
from ..stream.stream import Stream
from . import memory, precision
from .advice import Advice
from .epoch_log import Means, line
from .guard import Guard
from .precision import autocast, autocast_dtype, warn_of_slow_convolutions
from .statistics import CleanStatistics, applied
from .validation import ServingEvaluator

logger = logging.getLogger(__name__)


class DualStreamTrainer(Trainer):
    """Optimises a :class:`~.methods.Method` over a labelled and an unlabelled stream.

    One iteration draws a batch from each stream, computes the method's wanted terms, weighs them and back-propagates;
    ``accumulate`` iterations are one optimiser step (the last window of an epoch may be shorter: it is divided by its
    own size). Length and every schedule are counted in optimiser steps.

    A term that is not finite stops the run before any weight changes, see :class:`~.guard.Guard`. Under float16 an
    infinite *gradient* is the loss scaler's to skip; skips are counted.

    At an epoch's end: buffers are averaged over the ranks, then validation (a handler of ``train_handlers``), the
    method's ``after_validation``, the served files, the row of ``metrics.csv``, the checkpoint, in this order.

    Args:
        device: where to train.
        max_epochs: length of the run, in epochs of ``epoch_steps`` optimiser steps.
        method: networks and terms. Under an active process group it is wrapped in DDP as a whole.
        optimizer: over the method's parameters that require a gradient.
        labelled, unlabelled: the streams. Without unlabelled scans the terms that need them weigh 0; a method that has
            no such term needs no unlabelled stream.
        weights: of the terms, see :class:`~.schedule.TermWeights`.
        epoch_steps: optimiser steps an epoch.
        lr_schedule: factor of the learning rate as a function of the progress.
        accumulate: iterations that make one optimiser step.
        epoch_length: iterations an epoch, where it is not ``epoch_steps * accumulate``.
        clip: bound of the gradient's norm over all parameters; None does not clip.
        amp: auto, bf16, fp16 or off, see :func:`~.precision.autocast_dtype`.
        seed: of everything random; each epoch is seeded by (seed, epoch, rank).
        resume: go on from the newest readable checkpoint of ``output``.
        validator: scores the served networks. Without validation scans the final weights serve.
        output: what the run leaves on disk; None writes nothing.
        train_handlers: MONAI or Ignite handlers.
        guard_interval: steps between two looks at the terms on a GPU.
        check: judges the scans at the start of a run, given ``{"labelled": entries, "unlabelled": entries (where a
            term reads them), "validation": entries}``, and raises what it finds; rank 0 does it for all ranks. None
            compares patients and paths alone, see :func:`~.overlaps.refuse_overlaps`.
        statistics: of clean labelled patches, which networks carry while they are validated and written; give the
            validator the same. None leaves those of training.

    Raises:
        ValueError: an argument outside these; a weight that names no term.
        guard.NotFinite: a term became NaN or infinite.
        memory.OutOfMemory: says what was under way and what to lower.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        method: Method,
        optimizer: torch.optim.Optimizer,
        labelled: Stream,
        weights: Mapping[str, Any],
        epoch_steps: int,
        unlabelled: Stream | None = None,
        lr_schedule: Callable[[Progress], float] | None = None,
        accumulate: int = 1,
        epoch_length: int | None = None,
        clip: float | None = None,
        amp: str = "off",
        seed: int = 0,
        resume: bool = False,
        validator: ServingEvaluator | None = None,
        output: Output | None = None,
        train_handlers: Sequence | None = None,
        guard_interval: int = 10,
        check: Callable[[Mapping[str, Sequence[Mapping]]], Any] | None = None,
        statistics: CleanStatistics | None = None,
    ) -> None:
        for name, number in (("max_epochs", max_epochs), ("epoch_steps", epoch_steps), ("accumulate", accumulate)):
            if not (isinstance(number, int) and number >= 1):
                raise ValueError(f"{name} is a whole number >= 1, got {number!r}")
        iterations = epoch_length or epoch_steps * accumulate
        if math.ceil(iterations / accumulate) != epoch_steps:
            raise ValueError(
                f"epoch_length {iterations} with accumulate {accumulate} makes {math.ceil(iterations / accumulate)} "
                f"optimiser steps an epoch, epoch_steps says {epoch_steps}"
            )
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=range(iterations),
            epoch_length=iterations,
            decollate=False,
        )
        self.method, self.optimizer = method.to(self.device), optimizer  # heads and prototypes too, in place
        self.labelled, self.unlabelled = labelled, unlabelled if method.unlabelled_terms else None
        self.epoch_steps, self.accumulate, self.clip = epoch_steps, accumulate, clip
        self.lr_schedule = lr_schedule or PolyDecay(power=0.0)
        self.seed, self.resume, self.statistics = seed, resume, statistics
        self.validator, self.output, self.check = validator, output, check
        self.weights = TermWeights(weights, method.terms, absent=self._absent_terms())
        if self.unlabelled is not None:  # said here, as a term may have its weight late in a run
            paired = [name for name in method.pairs if self.weights.weights[name].value > 0]
            check_pairs(paired, labelled.batch, self.unlabelled.batch)
        self.dtype = autocast_dtype(amp, self.device)
        warn_of_slow_convolutions(method, self.dtype, self.device)
        self.scaler: Any = torch.amp.GradScaler(self.device.type) if self.dtype is torch.float16 else None
        self.network: nn.Module = method  # what is called; DDP's wrapper from the start of a run on
        self.guard = Guard(optimizer, guard_interval)
        self.step = 0
        self.skipped_steps = 0
        self.best: dict[str, float] = {"score": -math.inf, "epoch": 0}
        self._said_nan = False
        self._advice = Advice()
        self._epoch_means = Means()
        self._epoch_start = time.perf_counter()
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        _give_momentum_to_all(optimizer)
        self.add_event_handler(Events.EPOCH_STARTED, DualStreamTrainer._start_epoch)
        self.add_event_handler(Events.EPOCH_COMPLETED, DualStreamTrainer._share_buffers)
        self._register_handlers(ours_for_monais(train_handlers or [], output))

    @property
    def device(self) -> torch.device:
        return self.state.device

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.state.max_epochs * self.epoch_steps

    def progress(self) -> Progress:
        epoch = max(self.state.epoch, 1)
        return Progress(min(self.step, self.steps), self.steps, epoch, self.state.max_epochs, self.weights)

    def _absent_terms(self) -> Sequence[str]:
        if not self.method.unlabelled_terms or (self.unlabelled is not None and len(self.unlabelled.bank)):
            return ()
        logger.warning("There are no unlabelled scans: training is supervised, without %s.",
                       ", ".join(self.method.unlabelled_terms))  # fmt: skip
        return self.method.unlabelled_terms

    # a run

    def run(self) -> None:  # type: ignore[override]
        """Train to the end. Called again after an error or a kill with ``resume`` it goes on where it stopped."""
        self._attach_last_handlers()
        self._judge_the_scans()
        try:
            if self.output is not None:
                self.output.open(self.resume)
            Workflow.run(self)  # past Trainer.run, which would make a new loss scaler and lose the state of this one
        finally:
            if self.output is not None:
                self.output.close()

    def _judge_the_scans(self) -> None:
        """Check the scans before anything is touched; an unlabelled scan that no term reads is not judged."""
        parts = {"labelled": self.labelled.bank.data}
        if self.unlabelled is not None:
            parts["unlabelled"] = self.unlabelled.bank.data
        parts["validation"] = self.validator.dataset.data if self.validator is not None else []
        if self.check is None:
            refuse_overlaps(**parts)
        else:
            distributed.by_rank_0(partial(self.check, parts))

    def _attach_last_handlers(self) -> None:
        """Ours come after whatever the config, MONAI Label or a tracker attached: weights loaded by a handler at
        STARTED are there before a teacher copies them, and scores before they are written."""
        if not self.has_event_handler(DualStreamTrainer._end_epoch):
            self.add_event_handler(Events.STARTED, DualStreamTrainer._start)
            self.add_event_handler(Events.EPOCH_COMPLETED, DualStreamTrainer._end_epoch)
            self.add_event_handler(Events.COMPLETED, DualStreamTrainer._finish)

    def _start(self) -> None:
        self.data_digest()  # reads every scan: what cannot be read ends the run here, and no epoch waits for a file
        # one may have more to preprocess than the others, as a machine that was replaced
        distributed.barrier(patient=True)
        if self.resume and self.output is not None:
            self._resume(self.output)
        if self.output is not None:
            self.output.begin()
            self.output.keep_intensities(self._judge_intensities())
        if self.step == 0:
            self.method.begin()
        self.method.train()
        if distributed.active() and not isinstance(self.network, DistributedDataParallel):
            self.network = DistributedDataParallel(
                self.method, forward_sync_buffers=False, find_unused_parameters=self.weights.sometimes_off()
            )

    def _judge_intensities(self) -> dict[str, dict[str, tuple[float, float]]]:
        """What the networks see of the scans that they are trained on; scans unlike the others are named."""
        banks = [self.labelled.bank, *([self.unlabelled.bank] if self.unlabelled is not None else [])]
        known = {name: scan for bank in banks for name, scan in _intensities(bank)}
        record = seen(list(known.values()))
        judging = dict(_intensities(self.validator.dataset)) if self.validator is not None else {}
        found = {name: nonsense(scan, {}) for name, scan in known.items()}
        found |= {name: nonsense(scan, record) or outside_training(scan, record) for name, scan in judging.items()}
        if odd := {name: text for name, text in found.items() if text}:
            logger.warning("Intensities: %s", odd_summary(odd, len(found)))
        return record

    def _resume(self, output: Output) -> None:
        found = output.newest_checkpoint(self.data_digest(), precision.name(self.dtype))
        if found is None:
            logger.info("No checkpoint in %s: starting from the first epoch.", output.folder)
            return
        state, path = found
        self.load_state_dict(state)
        done = self.state.epoch
        if done >= self.state.max_epochs:
            logger.info("%s: all %d epochs are done, nothing to train.", path.name, done)
        else:
            logger.info("Resumed from %s: epoch %d of %d.", path.name, done + 1, self.state.max_epochs)
            output.goes_on()

    def data_digest(self) -> dict[str, str]:
        """SHA-256 of what each part of the cohort holds, names and voxels."""
        parts = {"labelled": self.labelled.bank}
        if self.unlabelled is not None:
            parts["unlabelled"] = self.unlabelled.bank
        if self.validator is not None:
            parts["validation"] = self.validator.dataset
        return {name: bank.digest() for name, bank in parts.items()}

    # an epoch

    def _start_epoch(self) -> None:
        """Seed everything from (seed, epoch, rank): resume at an epoch's start is exact without saved generators. The
        order of the items goes on where the epochs before, as they are all of one length, have left it."""
        epoch, rank = self.state.epoch, distributed.rank()
        drawn = (epoch - 1) * self.state.epoch_length
        torch.manual_seed(derive(self.seed, epoch, rank, "network"))
        self.labelled.start(epoch, drawn)
        if self.unlabelled is not None:
            self.unlabelled.start(epoch, drawn)
        if self.statistics is not None:
            self.statistics.forget()
        self._epoch_means = Means()
        self._epoch_start = time.perf_counter()

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Tensor]:
        window = self._window()
        progress = self.progress()
        with self._memory(lambda: "drawing patches"):
            labelled, unlabelled = self._draw()
        if window.first:
            self.optimizer.zero_grad(set_to_none=True)
            self._set_learning_rate(progress)
        with self._no_sync(window.last):
            with (
                autocast(self.dtype, self.device),
                self._memory(lambda: "computing " + ", ".join(self._wanted_terms(progress))),
            ):
                terms = self.network(labelled, unlabelled, progress)
            total = self._weigh(terms, progress)
            on_device = self.device.type == "cuda" and self.scaler is None
            self.guard.check(terms, self.step, labelled, unlabelled, on_device)
            loss = total / window.size
            with self._memory(lambda: "in the backward pass"):
                (self.scaler.scale(loss) if self.scaler is not None else loss).backward()
        if window.last:
            with self._memory(lambda: "in the optimiser's step"):
                self._optimise()
        self._epoch_means.add({f"term/{name}": term.detach() for name, term in terms.items()})
        self._epoch_means.add({f"watch/{name}": value for name, value in self.method.watch().items()})
        self.state.batch = labelled
        return {CommonKeys.LOSS: total.detach(), **{name: term.detach() for name, term in terms.items()}}

    def _window(self) -> _Window:
        position = (self.state.iteration - 1) % self.state.epoch_length
        start = position - position % self.accumulate
        size = min(self.accumulate, self.state.epoch_length - start)
        return _Window(size, position == start, position == start + size - 1)

    def _draw(self) -> tuple[Batch, Batch]:
        labelled, unlabelled = self.labelled.draw(), self._wanted_unlabelled()
        views = self.method.views(self.weights)
        return labelled, self.labelled.empty() if unlabelled is None else unlabelled.draw(views)

    def _wanted_unlabelled(self) -> Stream | None:
        """The unlabelled stream, where a term reads it now."""
        progress = self.progress()
        return self.unlabelled if any(progress.wants(term) for term in self.method.unlabelled_terms) else None

    def _memory(self, under_way: Callable[[], str]) -> contextlib.AbstractContextManager:
        """Let an out-of-memory error name what was under way, its size and what to lower."""
        return memory.explained(
            lambda: memory.report(
                f"{under_way()}, step {self.step}",
                self.labelled.batch,
                0 if (unlabelled := self._wanted_unlabelled()) is None else unlabelled.batch,
                (self.labelled.bank.num_channels, *self.labelled.patch),
                resumable=self.output is not None and self.step >= self.epoch_steps,
            )
        )

    def _wanted_terms(self, progress: Progress) -> list[str]:
        return [name for name, weight in self.weights.at(progress.fraction).items() if weight > 0]

    def _weigh(self, terms: dict[str, Tensor], progress: Progress) -> Tensor:
        weights, wanted = self.weights.at(progress.fraction), set(self._wanted_terms(progress))
        if set(terms) != wanted:
            raise ValueError(
                f"{type(self.method).__name__} returned the terms {sorted(terms)}, wanted at step {progress.step} "
                f"are {sorted(wanted)}"
            )
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def _optimise(self) -> None:
        progress = self.progress()
        if self.clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], self.clip)
        changed = True
        if self.scaler is None:
            self.optimizer.step()
        else:
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            changed = self.scaler.get_scale() >= scale  # it falls exactly when the step was skipped
        if changed:
            self.method.after_step(progress)
        else:
            self.skipped_steps += 1
        self.step += 1

    def _set_learning_rate(self, progress: Progress) -> None:
        factor = self.lr_schedule(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _no_sync(self, last: bool) -> contextlib.AbstractContextManager:
        if last or not isinstance(self.network, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.network.no_sync()

    # the end of an epoch

    def _share_buffers(self) -> None:
        self.guard.read(self.step)
        distributed.average_buffers(self.method)
        self.guard.check_weights(self.method, self.state.epoch)

    def _end_epoch(self) -> None:
        epoch, last = self.state.epoch, self.state.epoch == self.state.max_epochs
        validator = self.validator
        if validator is not None and last and validator.scored_epoch != epoch:
            validator.run(epoch)  # an interval that does not divide the run must not leave its end unmeasured
        scored = validator is not None and validator.scored_epoch == epoch
        row = self._row()
        if validator is not None and scored:
            self.method.after_validation(dict(validator.scores), self.progress())
            row |= {f"val/{name}": value for name, value in validator.state.metrics.items() if "/" in name}
            row |= {f"watch/threshold/{name}": threshold for name, threshold in validator.chosen.items()}
            row["validation_seconds"] = round(validator.state.times["COMPLETED"] or 0.0, 2)
            if self._is_best(next(iter(validator.scores.values()))) and self.output is not None:
                self._serve(self.output)
        self.state.metrics.clear()  # an epoch without validation has no scores, not those of an earlier one
        self.state.metrics.update(row)
        if scored or last:
            networks = self.validator.scores if self.validator is not None else ()
            logger.info("%s", line(row, self.state.max_epochs, networks, self.best, self.skipped_steps))
        if self.output is not None:
            self.output.log(row)
            if scored or last:
                self._advice.give(self.output.rows, self.state.max_epochs, self.method, self.weights.at(1.0))
            self.output.checkpoint(self.state_dict(), epoch, self.data_digest(), precision.name(self.dtype))

    def _row(self) -> dict[str, float]:
        progress = Progress(max(self.step - 1, 0), self.steps, self.state.epoch, self.state.max_epochs, self.weights)
        return {
            "epoch": self.state.epoch,
            "step": self.step,
            "seconds": round(time.perf_counter() - self._epoch_start, 2),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **{f"weight/{name}": weight for name, weight in self.weights.at(progress.fraction).items()},
            **self._epoch_means.means(),
        }

    def _is_best(self, score: float) -> bool:
        if math.isnan(score):
            if not self._said_nan:
                logger.warning("Validation Dice is nan at epoch %d: it never counts as best.", self.state.epoch)
                self._said_nan = True
            return False
        if score <= self.best["score"]:
            return False
        self.best = {"score": score, "epoch": self.state.epoch}
        return True

    def _finish(self) -> None:
        if self.output is None:
            return
        if self.best["epoch"] == 0:
            logger.info("There is no validation score to choose by: the final weights serve.")
            self._serve(self.output)
        start = time.perf_counter()
        networks = self.method.serving()
        with applied(self.statistics, networks), cut(networks, self._thresholds()):
            self.output.finish(networks, self.best, self.method.unlabelled_terms)
        end = time.perf_counter() - start
        whole, part = (sum(row.get(k, 0.0) for row in self.output.rows) for k in ("seconds", "validation_seconds"))
        logger.info(
            "All epochs took %.0f s, of it validation %.0f s (%.0f %%); what is drawn and sent at the end %.0f s.",
            whole, part, 100 * part / (whole or 1), end)  # fmt: skip

    def _serve(self, output: Output) -> None:
        networks = self.method.serving()
        with applied(self.statistics, networks), cut(networks, self._thresholds()):
            output.serve(networks)

    def _thresholds(self) -> dict[str, float]:
        """What the last validation chose; a resume at the end of a run finds it in the checkpoint."""
        return self.validator.chosen if self.validator is not None else {}

    # state

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """All that evolves, in plain tensors and plain types."""
        return {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            "epoch": self.state.epoch,
            "step": self.step,
            "skipped_steps": self.skipped_steps,
            "best": dict(self.best),
            "thresholds": dict(self._thresholds()),
            "seed": self.seed,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.method.load_state_dict(state_dict["method"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state_dict["scaler"])
        self.step, self.skipped_steps = state_dict["step"], state_dict["skipped_steps"]
        self.best = dict(state_dict["best"])
        if self.validator is not None:
            self.validator.chosen = dict(state_dict.get("thresholds", {}))  # none in those of before 2026-12-01
        self.state.epoch = state_dict["epoch"]
        self.state.iteration = self.state.epoch * self.state.epoch_length


def _intensities(bank: Bank) -> list[tuple[str, dict[str, Intensities]]]:
    return [(f"{bank.name} {bank.case_name(case)}", bank.intensities(case)) for case in range(len(bank))]


class _Window:
    """Where an iteration stands among those that share one optimiser step."""

    def __init__(self, size: int, first: bool, last: bool) -> None:
        self.size, self.first, self.last = size, first, last


def _give_momentum_to_all(optimizer: torch.optim.Optimizer) -> None:
    """Fused SGD of torch 2.13 fails when a parameter gets its first gradient after others have: give every parameter
    its momentum, 0, from the start. A first step from 0 is the step that SGD takes without one."""
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.SGD) and group["fused"] and group["momentum"] and not group["dampening"]:
            for p in group["params"]:
                optimizer.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
