"""A term that is not finite stops the run before it changes a weight."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .. import distributed
from ..errors import UserError
from ..methods.batch import Batch


class NotFinite(UserError, FloatingPointError):
    """A term of the loss is NaN or infinite."""


class Guard:
    """Looks at the terms before they are back-propagated.

    On a CPU a term that is not finite raises at once. On a GPU that would wait for the device in every step: there,
    with a fused optimiser, a flag stays on the device, the optimiser skips the whole step where it is set (``found_inf``,
    the seam of the loss scaler), and the host reads it every ``interval`` steps and before any file is written. The flag
    is that of all ranks: each would take the step of a gradient that is not finite on one.

    Args:
        optimizer: of the run.
        interval: steps between two looks at the flag.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, interval: int) -> None:
        self.optimizer, self.interval = optimizer, interval
        self._flag: Tensor | None = None

    def check(
        self, terms: Mapping[str, Tensor], step: int, labelled: Batch, unlabelled: Batch, on_device: bool = False
    ) -> None:
        """Judge the terms; called before ``backward``.

        Raises:
            NotFinite: naming term, step and cases; with ``on_device`` only the steps it happened within.
        """
        values = torch.stack([term.detach() for term in terms.values()])
        if on_device and getattr(self.optimizer, "_step_supports_amp_scaling", False):
            now = distributed.any_rank((~values.isfinite()).any().float())  # DDP gives its gradient to all ranks
            self._flag = now if self._flag is None else torch.maximum(self._flag, now)
            self.optimizer.found_inf, self.optimizer.grad_scale = self._flag, None  # type: ignore[attr-defined]
            if step % self.interval == 0:
                self.read(step)
        elif not values.isfinite().all():
            name, value = next((n, v) for n, v in zip(terms, values.tolist(), strict=True) if not math.isfinite(v))
            raise NotFinite(
                f"{name} is {value} at step {step} (labelled {_names(labelled)}; unlabelled {_names(unlabelled)}). No "
                "weight was changed by it. Lower learning_rate or the weight of the term, or set amp: off; the last "
                "checkpoint is intact."
            )

    def read(self, step: int) -> None:
        """Raise if the flag was set; before anything is written."""
        if self._flag is not None and self._flag.item() > 0:
            raise NotFinite(
                f"a term was not finite within the {self.interval} steps before step {step + 1}. No weight was changed "
                "by it or after it. Lower learning_rate or a weight, or set amp: off; the last checkpoint is intact."
            )

    @staticmethod
    def check_weights(module: nn.Module, epoch: int) -> None:
        """Judge the weights before an epoch's files are written: a finite loss can have a gradient that is not.

        Raises:
            NotFinite: naming the first parameter or buffer that is not finite.
        """
        tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        names = [name for name, value in tensors.items() if value.is_floating_point()]
        finite = torch.stack([tensors[name].isfinite().all() for name in names])
        if not finite.all():
            name = names[int((~finite).nonzero()[0])]
            raise NotFinite(
                f"{name} is not finite at the end of epoch {epoch}: a gradient was not, though its terms were. Nothing was "
                "written in this epoch. Lower learning_rate, set clip, or set amp: off; --resume true goes on from the "
                "last checkpoint."
            )


def _names(batch: Batch) -> str:
    return ", ".join(dict.fromkeys(batch.cases)) or "none"
