"""What one stream hands to a method in one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """Patches of one stream, labelled or not.

    Args:
        image: ``(B, C, *spatial)`` float, the weak view; channels in the order that the task names. ``B`` may be 0:
            that is what a method gets from a stream which no wanted term needs.
        label: ``(B, 1, *spatial)`` integer class indices, or None in the unlabelled stream.
        strong: a second view of the same geometry with other intensities, when the method asks for one; where the stream
            mixes, a box of it shows the neighbour in the batch.
        mix: mixes targets, confidences and masks of ``image`` ``(B, ...)`` by the boxes of ``strong``; None changes nothing.
        present: ``(B, C)`` bool, False where the case lacks that modality (its channel is then 0 throughout).
        cases: names of the ``B`` cases, for error texts.
    """

    image: Tensor
    label: Tensor | None = None
    strong: Tensor | None = None
    mix: Callable[[Tensor], Tensor] | None = None
    present: Tensor | None = None
    cases: tuple[str, ...] = ()

    def mixed(self, x: Tensor) -> Tensor:
        """What was computed of ``image``, as it belongs to ``strong``."""
        return x if self.mix is None else self.mix(x)

    def __len__(self) -> int:
        return self.image.shape[0]
