"""What one stream hands to a method in one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StrongView:
    """What a student sees instead of the weak view: the same geometry, hard intensities, boxes of the neighbour.

    Args:
        image: ``(B, C, *spatial)`` float; where the stream mixes, boxes of it show the neighbour in the batch.
        mix: mixes what was computed of the weak view ``(B, ...)`` by the same boxes; None changes nothing.
    """

    image: Tensor
    mix: Callable[[Tensor], Tensor] | None = None

    def mixed(self, x: Tensor) -> Tensor:
        """Targets, confidences or masks of the weak view, as they belong to this one."""
        return x if self.mix is None else self.mix(x)


@dataclass
class Batch:
    """Patches of one stream, labelled or not.

    Args:
        image: ``(B, C, *spatial)`` float, the weak view; channels in the order that the task names. ``B`` may be 0:
            that is what a method gets from a stream which no wanted term needs.
        label: ``(B, 1, *spatial)`` integer class indices, or None in the unlabelled stream.
        strong: as many strong views of ``image`` as the method asks for.
        present: ``(B, C)`` bool, False where the case lacks that modality (its channel is then 0 throughout).
        cases: names of the ``B`` cases, for error texts.
    """

    image: Tensor
    label: Tensor | None = None
    strong: tuple[StrongView, ...] = ()
    present: Tensor | None = None
    cases: tuple[str, ...] = ()

    def strong_view(self, number: int = 0) -> StrongView:
        """A strong view; ``image`` as it is where there are none."""
        return self.strong[number] if self.strong else StrongView(self.image)

    def __len__(self) -> int:
        return self.image.shape[0]
