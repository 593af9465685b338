"""Contrastive mutual learning: two modalities teach each other, then the stronger one re-teaches the weaker."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError, nearest
from ..losses.area_similarity import AreaSimilarityContrastiveLoss
from ..losses.bce_dice import class_maps
from .base import Method
from .batch import Batch
from .best_model_average import BestModelAverage
from .moving_average import MovingAverage
from .schedule import Progress

logger = logging.getLogger(__name__)

RELEARNING = ("relearn", "relearn_strong")  # the terms of stage 2


class ModalityError(UserError, ValueError):
    """A task or a batch that two networks, one a modality, cannot learn from."""


class ContrastiveMutual(Method):
    r"""Two networks :math:`f_1, f_2`, each of which sees its own modality alone, in training and in use.

    Stage 1, mutual learning, with :math:`p_m = \mathrm{sigmoid}(f_m(x_m))`:

    .. math:: L = \sum_m L_{fit}(p_m^l, y) + w_1 L_{asc}(p_1^u, p_2^u) + w_2(t)\,\overline{(p_1^u - p_2^u)^2}

    With ``view="strong"`` each network follows, on the strong view with boxes of other patches, what the moving average
    :math:`f'_o` of network :math:`o` says of the weak view, mixed alike: the last part is then
    :math:`w_2(t) \frac12 \sum_m L_{fit}(p_m^s, p_o'^u)`. With ``follow="other"`` :math:`o` is the other one; with
    "stronger" it is the stronger one for both, as soon as validation has said which that is, and :math:`L_{asc}` of stage 1
    moves the weaker one alone: a network that is taught by one which sees less loses by it.

    With ``contrast="objects"`` :math:`L_{asc}` of stage 1 takes the patches in which one of the two networks finds
    something. The similarity of two maps does not see how large they are, so that of two empty patches it compares noise,
    and its gradient there is the largest of all.

    Stage 2, from the first step that wants ``relearn``: a frozen teacher :math:`T` of the stronger modality's network,
    see :class:`~.best_model_average.BestModelAverage`, gives soft pseudo-labels, with its dropout on,

    .. math:: P = \frac14 \sum_{i=1}^4 T(x_{strong} + \mathrm{clip}(0.1\,N(0, 1), 0, 0.2)), \quad
              \mathrm{teach}(m) = \alpha_m L_{asc}(P, p_m^u) + (1 - \alpha_m) L_{fit}(p_m^u, P)

    ``relearn`` is teach(weak), ``relearn_strong`` is teach(strong); while the latter is not wanted the strong network
    is not run at all, and its BatchNorm rests. Each network meets labelled and unlabelled images in one batch.

    A patch without one of its modalities (``Batch.present``) is not shown to the network that reads it. ``contrastive``,
    ``consistency`` and ``relearn`` take the unlabelled patches that have both, ``relearn_strong`` those that have the
    strong one; with fewer than two pairs :math:`L_{asc}` is 0.

    Args:
        first, second: :class:`~..networks.OneChannel` networks of the two channels, one shape.
        teacher: a third one of that shape, with dropout.
        channels: the two names; they name the networks.
        supervised: :math:`L_{fit}` of logit maps and maps in [0, 1], of labels and of pseudo-labels.
        contrastive: :math:`L_{asc}`.
        strong: the stronger modality's name; "auto", the better one in the first validation after ``choose_at``;
            "swapped", the other one.
        alpha: :math:`\alpha_1, \alpha_2`, each in [0, 1].
        passes: of the teacher.
        noise: standard deviation of the teacher's noise, clipped to twice that, in units of the normalised intensity.
        pool: validations that fill the teacher's pool.
        teacher_norm: see the teacher's class.
        view: "strong" or "weak" (the published form), of the consistency.
        contrast: "objects" or "all" (the published form): which pairs :math:`L_{asc}` of stage 1 takes.
        ema_decay: upper bound of the decay of each network's moving average.
        follow: "stronger" or "other": whose average both networks follow, see above.
        serve: "average" or "network" (the published form): which of the two validates, serves and becomes the teacher of stage 2.
        choose_at, teacher_from: fractions of stage 1, which ends where the terms of stage 2 begin; from the second on
            its validations go to the teacher. By default epochs 8 and 10 of some 51, as published.

    Raises:
        ModalityError: a task of other than two channels; ``strong`` names none of them; an unlabelled batch of one
            patch.
        ValueError: networks of different shapes; ``alpha`` or ``ema_decay`` outside its range; an unknown ``view``,
            ``contrast``, ``serve`` or ``follow``.

    References: Zhang et al. 2023, Medical Image Analysis 83:102656.
    """

    terms: ClassVar[tuple[str, ...]] = ("supervised", "contrastive", "consistency", "relearn", "relearn_strong")
    unlabelled_terms: ClassVar[tuple[str, ...]] = ("contrastive", "consistency", "relearn", "relearn_strong")

    weights_at_switch: Tensor

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        teacher: nn.Module,
        channels: Sequence[str],
        supervised: nn.Module,
        contrastive: AreaSimilarityContrastiveLoss,
        strong: str = "auto",
        alpha: Sequence[float] = (0.1, 0.1),
        passes: int = 4,
        noise: float = 0.1,
        pool: int = 6,
        teacher_norm: str = "batch",
        choose_at: float = 10 / 63,
        teacher_from: float = 12 / 63,
        view: str = "weak",
        contrast: str = "all",
        ema_decay: float = 0.99,
        serve: str = "network",
        follow: str = "other",
    ) -> None:
        super().__init__()
        _among("follow", follow, "stronger", "other")
        _among("view", view, "strong", "weak")
        _among("contrast", contrast, "objects", "all")
        _among("serve", serve, "average", "network")
        self.strong_views = int(view == "strong")
        _check(channels, strong)
        if len(alpha) != 2 or not all(0 <= a <= 1 for a in alpha):
            raise ValueError(f"alpha is two numbers in [0, 1], one a modality, got {list(alpha)}")
        shapes = [[tuple(p.shape) for p in network.parameters()] for network in (first, second, teacher)]
        if not shapes[0] == shapes[1] == shapes[2]:
            raise ValueError("first, second and teacher differ in their parameters: all three need one shape")
        self.networks = nn.ModuleList([first, second])
        own = "own" if view == "strong" else "copied"
        self.averages = nn.ModuleList([MovingAverage(network, ema_decay, own) for network in self.networks])
        self.contrast, self.serve, self.follow = contrast, serve, follow
        self.teacher = BestModelAverage(teacher, pool, teacher_norm)
        self.supervised, self.contrastive = supervised, contrastive
        self.channels, self.alpha, self.passes, self.noise = list(channels), list(alpha), passes, noise
        self.choose_at, self.teacher_from = choose_at, teacher_from
        self.rule = strong
        self.strong: int | None = self.channels.index(strong) if strong in self.channels else None
        self.switched = False
        self.register_buffer("weights_at_switch", torch.zeros_like(self._weights()))  # (2, parameters)
        self._watched: dict[str, Tensor] = {}

    # a step

    def forward(self, labelled: Batch, unlabelled: Batch, progress: Progress) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        self._watched = {}
        relearns = [progress.wants(term) for term in RELEARNING]
        if any(relearns):
            self._switch()
        known = _present(labelled) & progress.wants("supervised")  # (Bl, 2): what each network sees
        there = _present(unlabelled)
        pairs = there.all(dim=1)
        seen = self._seen(there, progress)  # (Bu, 2)
        if len(unlabelled):
            self._watched["pairs"] = torch.full((), pairs.float().mean().item(), device=unlabelled.image.device)
        labelled_maps, free = zip(*(self._maps(m, labelled, known, unlabelled, seen) for m in (0, 1)), strict=True)

        if progress.wants("supervised"):
            terms["supervised"] = self._supervise(labelled_maps, labelled, known)
        if progress.wants("contrastive"):
            terms["contrastive"] = self._contrast(free, pairs, seen)
        if progress.wants("consistency"):
            if self.strong_views:
                terms["consistency"] = self._follow(labelled, unlabelled, pairs)
            else:
                terms["consistency"] = self._agree(free, pairs, seen)
        if any(relearns):
            terms |= self._relearn(free, unlabelled, pairs, seen, progress)
            self._watched |= {f"moved/{name}": m for name, m in zip(self.channels, self._moved(), strict=True)}
        return terms

    def _seen(self, there: Tensor, progress: Progress) -> Tensor:
        """``(Bu, 2)``: which unlabelled patches each network needs, for the terms that are wanted."""
        pairs, seen = there.all(dim=1), torch.zeros_like(there)
        agree = progress.wants("consistency") and not self.strong_views  # else the averages look at them
        if progress.wants("contrastive") or agree:
            seen[:, :] = pairs[:, None]
        if self.strong is not None and progress.wants("relearn"):
            seen[:, 1 - self.strong] = pairs
        if self.strong is not None and progress.wants("relearn_strong"):
            seen[:, self.strong] = there[:, self.strong]
        return seen

    def _maps(self, m: int, labelled: Batch, known: Tensor, unlabelled: Batch, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Logit maps ``(n, K - 1, *spatial)`` of modality ``m``, labelled and unlabelled; (0,) where nothing is seen."""
        images = [batch.image[rows[:, m], m : m + 1] for batch, rows in ((labelled, known), (unlabelled, seen))]
        if not sum(map(len, images)):
            return images[0].new_zeros(0), images[0].new_zeros(0)
        labelled_maps, free = self.networks[m](torch.cat(images))[:, 1:].float().split([len(x) for x in images])
        return labelled_maps, free

    def _supervise(self, labelled_maps: Sequence[Tensor], labelled: Batch, known: Tensor) -> Tensor:
        assert labelled.label is not None
        losses = [
            self.supervised(maps, class_maps(labelled.label[known[:, m]], maps.shape[1] + 1))
            for m, maps in enumerate(labelled_maps)
            if len(maps)
        ]
        return torch.stack(losses).sum() if losses else self._nothing()

    def _contrast(self, free: Sequence[Tensor], pairs: Tensor, seen: Tensor) -> Tensor:
        if len(pairs) == 1:
            raise ModalityError(
                "`contrastive` tells an image from the others of its batch: found an unlabelled batch of 1 patch, "
                "expected at least 2. Raise --unlabelled_batch, or leave the term out with --weights::contrastive 0."
            )
        if not pairs.any():
            if self.contrast == "objects":
                self._watched["contrastive/objects"] = torch.zeros((), device=self.weights_at_switch.device)
            return self._nothing()
        one, two = (self._held(m, maps[pairs[seen[:, m]]].sigmoid()) for m, maps in enumerate(free))
        if self.contrast == "objects":
            found = (torch.maximum(one.detach(), two.detach()) >= 0.5).flatten(1).any(dim=1)
            one, two = one[found], two[found]
            self._watched["contrastive/objects"] = found.float().sum() / len(pairs)
        count = len(one)
        if count < 2:
            return self._nothing()
        similarities = self.contrastive.similarities(one, two)  # (2B, 2B)
        with torch.no_grad():
            positive = similarities.diagonal(count).mean()
            others = similarities.sum() - similarities.trace() - 2 * count * positive
            self._watched["similarity/positive"] = positive
            self._watched["similarity/negative"] = others / (2 * count * (2 * count - 2))
            self._watched["contrastive/plateau"] = torch.full_like(positive, math.log(2 * count - 1))
        return self.contrastive.contrast(similarities)

    def _follow(self, labelled: Batch, unlabelled: Batch, pairs: Tensor) -> Tensor:
        """The strong view's maps of each network against an average's of the weak view."""
        teachers = [1 - m if self.strong is None or self.follow == "other" else self.strong for m in (0, 1)]
        if not pairs.any():
            for o in teachers:
                self.averages[o].stand_by()  # type: ignore[operator]
            return self._nothing()
        view, losses, targets = unlabelled.strong_view(), [], {}
        for m, o in enumerate(teachers):
            if o not in targets:
                targets[o] = view.mixed(self._taught_by(o, labelled, unlabelled, pairs))[pairs]
            maps = self.networks[m](view.image[pairs, m : m + 1])[:, 1:].float()
            losses.append(self.supervised(maps, targets[o]))
        return torch.stack(losses).mean()

    def _taught_by(self, m: int, labelled: Batch, unlabelled: Batch, pairs: Tensor) -> Tensor:
        """Maps of the weak view by an average, 0 where there is no pair: a box shows a neighbour, by its place in the batch."""
        known = _present(labelled)
        there = labelled.image[known[:, m], m : m + 1]
        weak = self.averages[m].teach(torch.cat([there, unlabelled.image[pairs, m : m + 1]]))  # type: ignore[operator]
        weak = weak[len(there) :, 1:].float().sigmoid()
        whole = weak.new_zeros(len(pairs), *weak.shape[1:])
        whole[pairs] = weak
        return whole

    def _held(self, m: int, maps: Tensor) -> Tensor:
        """Maps of network ``m``, constant where it is the stronger one and follows nobody else."""
        return maps.detach() if self.follow == "stronger" and m == self.strong else maps

    def _agree(self, free: Sequence[Tensor], pairs: Tensor, seen: Tensor) -> Tensor:
        if not pairs.any():
            return self._nothing()
        one, two = (maps[pairs[seen[:, m]]].sigmoid() for m, maps in enumerate(free))
        return (one - two).square().mean()

    def _relearn(
        self, free: Sequence[Tensor], unlabelled: Batch, pairs: Tensor, seen: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        assert self.strong is not None
        strong, terms = self.strong, {}
        taught = seen[:, strong] if progress.wants("relearn_strong") else pairs
        pseudo = self._pseudo_labels(unlabelled.image[taught, strong : strong + 1]) if taught.any() else None
        if progress.wants("relearn"):
            weak = 1 - strong
            terms["relearn"] = self._teach(weak, free[weak], None if pseudo is None else pseudo[pairs[taught]])
        if progress.wants("relearn_strong"):
            terms["relearn_strong"] = self._teach(strong, free[strong], pseudo)
        return terms

    def _pseudo_labels(self, image: Tensor) -> Tensor:
        """Soft maps ``(n, K - 1, *spatial)``: the mean over passes, each with its own noise and dropout."""
        with torch.no_grad():
            drawn = [self.teacher(self._perturb(image))[:, 1:].float().sigmoid() for _ in range(self.passes)]
            pseudo = torch.stack(drawn).mean(dim=0)
            self._watched["pseudo_foreground"] = (pseudo.amax(dim=1) >= 0.5).float().mean()
        return pseudo

    def _perturb(self, image: Tensor) -> Tensor:
        return image + (self.noise * torch.randn_like(image)).clamp(0.0, 2 * self.noise)

    def _teach(self, m: int, logits: Tensor, pseudo: Tensor | None) -> Tensor:
        if pseudo is None or not len(pseudo):
            return self._nothing()
        fit = (1 - self.alpha[m]) * self.supervised(logits, pseudo)
        return fit if len(pseudo) < 2 else fit + self.alpha[m] * self.contrastive(pseudo, logits.sigmoid())

    def _nothing(self) -> Tensor:
        """0, with a gradient of 0: a term that finds nothing to compare in this batch."""
        return 0.0 * torch.stack([p.sum() for p in self.networks.parameters()]).sum()

    # stages

    def begin(self) -> None:
        """Weights to start from may be another modality's: each network reads its own all the same."""
        for m, (network, average) in enumerate(zip(self.networks, self.averages, strict=True)):
            network.read(m)  # type: ignore[operator]
            average.copy(network)  # type: ignore[operator]

    def after_validation(self, scores: Mapping[str, float], progress: Progress) -> None:
        if self.switched:
            return
        dice = [scores[name] for name in self.channels]
        stage_1 = min(progress.begins(RELEARNING), 1.0)
        done = progress.fraction / stage_1 + 1e-9 if stage_1 else 1.0  # 0.1 / 0.63 may be less than 10 / 63
        if self.strong is None and done >= self.choose_at:
            self._choose(dice)
        if self.strong is not None and done >= self.teacher_from and not math.isnan(dice[self.strong]):
            self.teacher.see(dice[self.strong], self._served[self.strong])

    def _choose(self, dice: Sequence[float]) -> None:
        known = [-1.0 if math.isnan(d) else d for d in dice]
        if max(known) < 0:
            return
        better = int(known[1] > known[0])
        self.strong = 1 - better if self.rule == "swapped" else better
        scores = ", ".join(f"{name} {d:.3f}" for name, d in zip(self.channels, dice, strict=True))
        logger.info("The stronger modality is %s (validation Dice: %s)%s.", self.channels[self.strong], scores,
                    "; roles are swapped" if self.rule == "swapped" else "")  # fmt: skip

    def _switch(self) -> None:
        """Stage 2 begins: the teacher is what it is now, and stays so."""
        if self.switched:
            return
        if self.strong is None:
            self.strong = int(self.rule == "swapped")
            logger.warning("No validation has shown which modality is the stronger: %s is taken. Name it with --strong.",
                           self.channels[self.strong])  # fmt: skip
        if not self.teacher.started:
            logger.warning("Re-learning begins before the teacher's pool is full (%d of %d validations, and one more): "
                           "the teacher is the network of %s as it is now.",
                           len(self.teacher.pool), self.teacher.size, self.channels[self.strong])  # fmt: skip
            self.teacher.copy(self._served[self.strong])
        self.weights_at_switch.copy_(self._weights())
        self.switched = True

    def after_step(self, progress: Progress) -> None:
        for network, average in zip(self.networks, self.averages, strict=True):
            average.follow(network)  # type: ignore[operator]
        if self.switched and progress.step == progress.steps - 1:
            distances = ", ".join(
                f"{name} {m:.2e}" for name, m in zip(self.channels, self._moved().tolist(), strict=True)
            )
            logger.info("Stage 2 moved the weights by (relative distance): %s.", distances)

    def _weights(self) -> Tensor:
        """``(2, parameters)``: all weights of each network."""
        return torch.stack([torch.cat([p.detach().flatten() for p in net.parameters()]) for net in self.networks])

    def _moved(self) -> Tensor:
        """``(2,)``: distance of each network's weights to those at the switch, over the length of those."""
        return (self._weights() - self.weights_at_switch).norm(dim=1) / self.weights_at_switch.norm(dim=1)

    # what the trainer sees

    def serving(self) -> dict[str, nn.Module]:
        return dict(zip(self.channels, self._served, strict=True))

    @property
    def _served(self) -> list[nn.Module]:
        return [average.network for average in self.averages] if self.serve == "average" else list(self.networks)  # type: ignore[misc]

    def watch(self) -> dict[str, Tensor]:
        return self._watched

    def get_extra_state(self) -> dict[str, Any]:
        return {"strong": self.strong, "switched": self.switched}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.strong, self.switched = state["strong"], state["switched"]


def _among(name: str, value: str, *known: str) -> None:
    if value not in known:
        raise ValueError(f"{name} is one of {list(known)}, got {value!r}")


def _check(channels: Sequence[str], strong: str) -> None:
    if len(channels) != 2:
        raise ModalityError(
            f"channels: found {len(channels)} ({', '.join(channels)}), expected 2: this method trains one network for "
            "each of two registered modalities. Take a task that has two (scripts/tasks/lgg.yaml, "
            "scripts/tasks/phantom_two_channels.yaml, or your own), or another bundle."
        )
    names = ["auto", "swapped", *channels]
    if strong not in names:
        raise ModalityError(f"strong: found {strong!r}, expected one of {names}{nearest(strong, names)}.")


def _present(batch: Batch) -> Tensor:
    """``(B, 2)`` bool on the CPU, where it chooses rows without waiting for a device more than once."""
    if batch.present is None:
        return torch.ones(len(batch), 2, dtype=torch.bool)
    return batch.present.cpu()
