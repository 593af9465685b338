"""Augmentation of a whole batch at once, in tensor code, on the batch's device, for 2D and 3D.

Parts are listed in a config; :class:`Augmentation` composes the spatial ones into one affine map, resamples once, and
then changes intensities. Drawing random numbers (``draw``) is apart from using them (``matrix``, ``apply``): all small
numbers come from one CPU generator, so that they are the same on every device and cost no synchronisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def _uniform(shape: Sequence[int], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def _log_uniform(shape: Sequence[int], low: float, high: float, generator: Generator) -> Tensor:
    """Factors, as often doubled as halved."""
    return _uniform(shape, math.log(low), math.log(high), generator).exp()


def check_probability(prob: float) -> float:
    """Return ``prob``; refuse what is not in [0, 1]."""
    if not 0 <= prob <= 1:
        raise ValueError(f"prob is a probability in [0, 1], got {prob}")
    return prob


def _check_range(low: float, high: float, above: float) -> None:
    if not above < low <= high:
        raise ValueError(f"low and high must be ordered and above {above:g}, got low {low} and high {high}")


class Spatial:
    """A map ``x_scan = M x_patch + t`` from a voxel's place in the patch to its place in the scan, both in voxels from
    the centre."""

    def draw(self, batch: int, dims: int, generator: Generator) -> Tensor:
        """Parameters, one row a sample."""
        raise NotImplementedError

    def matrix(self, params: Tensor, dims: int) -> Tensor:
        """``(B, dims, dims)`` float64."""
        raise NotImplementedError

    def offset(self, params: Tensor, dims: int) -> Tensor:
        """``t``, ``(B, dims)`` float64; 0 for linear maps."""
        return torch.zeros(len(params), dims, dtype=torch.float64)

    def reach(self, extent: list[float]) -> list[float]:
        """Sides of the box that holds every image of a centred box with the sides ``extent``."""
        return extent


class Rotate(Spatial):
    """Rotation in one plane. The voxels must be square in it, else structures are sheared.

    Args:
        degrees: angles are uniform in [-degrees, degrees].
        prob: how often a sample is rotated.
        axes: the plane; the first two axes.
        step: angles are multiples of it, in degrees; 90 gives quarter turns, which are exact; 0 takes any angle.
    """

    def __init__(self, degrees: float = 180, prob: float = 0.5, axes: Sequence[int] = (0, 1), step: float = 0) -> None:
        if not 0 <= step <= degrees <= 180:
            raise ValueError(f"expected 0 <= step <= degrees <= 180, got degrees {degrees} and step {step}")
        if len(set(axes)) != 2:
            raise ValueError(f"axes are the two axes of a plane, got {tuple(axes)}")
        self.degrees, self.prob, self.axes, self.step = degrees, check_probability(prob), tuple(axes), step

    def draw(self, batch: int, dims: int, generator: Generator) -> Tensor:
        """``(B,)`` degrees."""
        angle = _uniform((batch,), -self.degrees, self.degrees, generator)
        if self.step:  # every multiple within the range is equally likely
            turns = math.floor(self.degrees / self.step)
            angle = self.step * torch.randint(-turns, turns + 1, (batch,), generator=generator).double()
        return angle * (torch.rand(batch, generator=generator) < self.prob)

    def matrix(self, params: Tensor, dims: int) -> Tensor:
        first, second = self.axes
        cosine, sine = torch.cos(torch.deg2rad(params)), torch.sin(torch.deg2rad(params))
        matrix = torch.eye(dims, dtype=torch.float64).repeat(len(params), 1, 1)
        matrix[:, first, first], matrix[:, second, second] = cosine, cosine
        matrix[:, first, second], matrix[:, second, first] = -sine, sine
        return matrix

    def reach(self, extent: list[float]) -> list[float]:
        first, second = self.axes
        extent = list(extent)
        extent[first], extent[second] = (
            self._longest(extent[first], extent[second]),
            self._longest(extent[second], extent[first]),
        )
        return extent

    def _longest(self, along: float, across: float) -> float:
        """The largest ``|cos a| along + |sin a| across``: at the angle of the diagonal, or where the range ends."""
        if self.step:
            angles = [math.radians(self.step * turn) for turn in range(math.floor(self.degrees / self.step) + 1)]
        else:
            angles = [0.0, min(math.radians(self.degrees), math.atan2(across, along))]
        return max(abs(math.cos(angle)) * along + abs(math.sin(angle)) * across for angle in angles)


class Scale(Spatial):
    """Zoom: structures appear ``z`` times as large; log-uniform in [low, high].

    Args:
        low, high: range of ``z``, both above 0.
        prob: how often a sample is scaled.
        axes: the axes that are scaled, all by the same factor; None is all of them.
    """

    def __init__(
        self, low: float = 0.7, high: float = 1.4, prob: float = 0.4, axes: Sequence[int] | None = None
    ) -> None:
        _check_range(low, high, above=0)
        self.low, self.high, self.prob, self.axes = low, high, check_probability(prob), axes

    def draw(self, batch: int, dims: int, generator: Generator) -> Tensor:
        """``(B,)`` zoom factors."""
        zoom = _log_uniform((batch,), self.low, self.high, generator)
        return torch.where(torch.rand(batch, generator=generator) < self.prob, zoom, 1.0)

    def matrix(self, params: Tensor, dims: int) -> Tensor:
        factors = torch.ones(len(params), dims, dtype=torch.float64)
        factors[:, list(range(dims) if self.axes is None else self.axes)] = 1 / params[:, None]
        return torch.diag_embed(factors)

    def reach(self, extent: list[float]) -> list[float]:
        axes = range(len(extent)) if self.axes is None else self.axes
        return [side / min(self.low, 1) if axis in axes else side for axis, side in enumerate(extent)]


class Flip(Spatial):
    """Mirror: each of ``axes`` (None: all) with probability ``prob``. Only where left and right may be exchanged."""

    def __init__(self, prob: float = 0.5, axes: Sequence[int] | None = None) -> None:
        self.prob, self.axes = check_probability(prob), axes

    def draw(self, batch: int, dims: int, generator: Generator) -> Tensor:
        """``(B, dims)`` signs."""
        flipped = torch.rand(batch, dims, generator=generator) < self.prob
        if self.axes is not None:
            flipped[:, [axis for axis in range(dims) if axis not in self.axes]] = False
        return 1 - 2 * flipped.double()

    def matrix(self, params: Tensor, dims: int) -> Tensor:
        return torch.diag_embed(params)


class Shift(Spatial):
    """Translation by whole voxels along each axis, uniform in [-voxels, voxels].

    A stream's patches lie anywhere in a scan already; this moves what is as large as its patch.
    """

    def __init__(self, voxels: int, prob: float = 0.5) -> None:
        if voxels < 0:
            raise ValueError(f"voxels is a whole number >= 0, got {voxels}")
        self.voxels, self.prob = int(voxels), check_probability(prob)

    def draw(self, batch: int, dims: int, generator: Generator) -> Tensor:
        """``(B, dims)`` voxels."""
        moved = torch.rand(batch, 1, generator=generator) < self.prob
        return torch.randint(-self.voxels, self.voxels + 1, (batch, dims), generator=generator) * moved

    def matrix(self, params: Tensor, dims: int) -> Tensor:
        return torch.eye(dims, dtype=torch.float64).repeat(len(params), 1, 1)

    def offset(self, params: Tensor, dims: int) -> Tensor:
        return params.double()

    def reach(self, extent: list[float]) -> list[float]:
        return [side + 2 * self.voxels for side in extent]


class Intensity:
    """Changes values, each channel of a chosen sample by a value of its own.

    Args:
        low, high: range of the value; log-uniform.
        prob: how often a sample is changed.
    """

    def __init__(self, low: float, high: float, prob: float) -> None:
        _check_range(low, high, above=0)
        self.low, self.high, self.prob = low, high, check_probability(prob)

    def draw(self, batch: int, channels: int, generator: Generator) -> tuple[Tensor, Tensor, int]:
        """Rows of the chosen samples ``(n,)``, their values ``(n, channels)``, and a seed for larger fields."""
        chosen = (torch.rand(batch, generator=generator) < self.prob).nonzero().squeeze(1)
        values = self.values((batch, channels), generator)[chosen]
        return chosen, values, int(torch.randint(2**62, (), generator=generator))

    def values(self, shape: Sequence[int], generator: Generator) -> Tensor:
        return _log_uniform(shape, self.low, self.high, generator)

    def apply(self, image: Tensor, value: Tensor, seed: int) -> Tensor:
        """``(n, C, *spatial)`` and ``(n, C, 1, ..)``, both on one device, to a new image of the same shape."""
        raise NotImplementedError


class Gamma(Intensity):
    """``max(x, 0) ** g``: images are expected in about [0, 1]."""

    def __init__(self, low: float = 0.7, high: float = 1.5, prob: float = 0.3) -> None:
        super().__init__(low, high, prob)

    def apply(self, image: Tensor, value: Tensor, seed: int) -> Tensor:
        return image.clamp(min=0).pow_(value)


class Contrast(Intensity):
    """``m + c (x - m)``, with the mean m of the patch."""

    def __init__(self, low: float = 0.75, high: float = 1.25, prob: float = 0.15) -> None:
        super().__init__(low, high, prob)

    def apply(self, image: Tensor, value: Tensor, seed: int) -> Tensor:
        mean = image.mean(dim=tuple(range(2, image.ndim)), keepdim=True)
        return image.mul(value).add_(mean * (1 - value))


class Brightness(Intensity):
    """``b x``: black stays black."""

    def __init__(self, low: float = 0.75, high: float = 1.25, prob: float = 0.15) -> None:
        super().__init__(low, high, prob)

    def apply(self, image: Tensor, value: Tensor, seed: int) -> Tensor:
        return image * value


class Noise(Intensity):
    """Gaussian noise whose standard deviation is uniform in [0, std], in units of the image."""

    def __init__(self, std: float = 0.1, prob: float = 0.15) -> None:
        super().__init__(std, std, prob)

    def values(self, shape: Sequence[int], generator: Generator) -> Tensor:
        return _uniform(shape, 0, self.high, generator)

    def apply(self, image: Tensor, value: Tensor, seed: int) -> Tensor:
        generator = Generator(image.device).manual_seed(seed)  # a field of numbers is drawn where it is needed
        field = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
        return field.mul_(value).add_(image)


class Blur(Intensity):
    """Gaussian blur with sigma in [low, high] voxels, over all axes, edges repeated."""

    def __init__(self, low: float = 0.5, high: float = 1.0, prob: float = 0.2) -> None:
        super().__init__(low, high, prob)

    def apply(self, image: Tensor, value: Tensor, seed: int) -> Tensor:
        radius = math.ceil(3 * self.high)
        weights = [(-0.5 * (step / value) ** 2).exp() for step in range(radius + 1)]  # symmetric: one side is kept
        total = weights[0] + 2 * sum(weights[1:], torch.zeros_like(value))
        for axis in range(2, image.ndim):
            length = image.shape[axis]
            place = torch.arange(-radius, length + radius, device=image.device).clamp(0, length - 1)
            wide = image.index_select(axis, place)
            image = image * (weights[0] / total)
            for step in range(1, radius + 1):
                both = wide.narrow(axis, radius - step, length) + wide.narrow(axis, radius + step, length)
                image.addcmul_(both, weights[step] / total)
        return image


class Augmentation:
    """The parts of a config, applied to a batch: one resampling, then intensities.

    The geometry is ``x_scan = M_1 (M_2 (... x_patch + t_n) + t_2) + t_1``, spatial parts in the order listed, in voxels
    from the centre.
    The image is interpolated linearly, the label takes the nearest voxel through the same grid, outside is 0. A sample
    whose matrix only mirrors or exchanges axes is copied exactly.

    Args:
        parts: spatial and intensity parts; intensities apply in the order listed.
        strong: intensity parts of the strong view, which replace those of ``parts`` there.

    Raises:
        ValueError: an entry that is not a part; a spatial one among the strong.
    """

    def __init__(self, parts: Sequence[Spatial | Intensity] = (), strong: Sequence[Intensity] = ()) -> None:
        for part in (*parts, *strong):
            if not isinstance(part, (Spatial, Intensity)):
                raise ValueError(f"{part!r} is not a part of an augmentation; list Rotate, Flip, Gamma, ...")
        for part in strong:
            if isinstance(part, Spatial):
                raise ValueError(f"{type(part).__name__} in strong: both views share the geometry; list it in parts")
        self.spatial = [part for part in parts if isinstance(part, Spatial)]
        self.intensity = [part for part in parts if isinstance(part, Intensity)]
        self.strong = list(strong)

    def field(self, patch: Sequence[int]) -> tuple[int, ...]:
        """Size of the box to cut, so that every rotated and scaled patch lies in it.

        Each side differs from the patch's by an even number: both have their centre at the same place of the voxel
        grid, and a patch that is not moved is not interpolated.
        """
        extent = [float(side - 1) for side in patch]  # between the outermost voxel centres
        for part in reversed(self.spatial):
            extent = part.reach(extent)
        margin = [max(0, math.ceil((far - (side - 1)) / 2 - 1e-6)) for far, side in zip(extent, patch, strict=True)]
        return tuple(side + 2 * more for side, more in zip(patch, margin, strict=True))

    def __call__(
        self, image: Tensor, label: Tensor | None, patch: Sequence[int], generator: Generator, strong_views: int = 0
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Weak view, label and as many strong views as wanted of a batch of boxes; the input is not changed.

        Shape:
            - image: ``(B, C, *field(patch))`` float; label: ``(B, 1, *field(patch))`` or None.
            - returns: ``(B, C, *patch)``, ``(B, 1, *patch)`` or None, each ``(B, C, *patch)``.

        Raises:
            ValueError: an image that is not ``field(patch)`` large; a strong view without strong parts.
        """
        patch = tuple(patch)
        if tuple(image.shape[2:]) != self.field(patch):
            raise ValueError(
                f"image {tuple(image.shape)}: patches of {patch} are taken from boxes of {self.field(patch)}; "
                "cut boxes of the size field(patch)"
            )
        if strong_views and not self.strong:
            raise ValueError("the method wants a strong view and the augmentation has no strong parts; list them")
        matrix = self.geometry(image.shape[0], len(patch), generator)
        image, label = transform(image, label, matrix, patch)
        strong = [image.clone() for _ in range(strong_views)]
        image = change(image, self.intensity, generator)
        return image, label, [change(view, self.strong, generator) for view in strong]

    def geometry(self, batch: int, dims: int, generator: Generator) -> Tensor:
        """``(B, dims, dims + 1)`` float64 on the CPU, ``[M | t]`` from places in the patch to places in the scan."""
        matrix = torch.eye(dims, dtype=torch.float64).repeat(batch, 1, 1)
        shift = torch.zeros(batch, dims, 1, dtype=torch.float64)
        for part in self.spatial:
            params = part.draw(batch, dims, generator)
            shift = shift + matrix @ part.offset(params, dims)[..., None]
            matrix = matrix @ part.matrix(params, dims)
        whole = matrix.round()
        matrix = torch.where((matrix - whole).abs() < 1e-9, whole, matrix)  # cos 90 degrees is 0, not 6e-17
        return torch.cat([matrix, shift], dim=2)


def change(image: Tensor, parts: Sequence[Intensity], generator: Generator) -> Tensor:
    """Apply intensity parts in place, each to the samples that it chooses: the others cost nothing."""
    for part in parts:
        chosen, values, seed = part.draw(image.shape[0], image.shape[1], generator)
        if len(chosen):
            value = values.to(image).reshape(*values.shape, *[1] * (image.ndim - 2))
            rows = chosen.to(image.device)
            image[rows] = part.apply(image[rows], value, seed)
    return image


def transform(
    image: Tensor, label: Tensor | None, matrix: Tensor, patch: tuple[int, ...]
) -> tuple[Tensor, Tensor | None]:
    """New tensors: the patch round the centre of each box, through its matrix; exact copies where that is possible."""
    new_image = image.new_empty(*image.shape[:2], *patch)
    new_label = None if label is None else label.new_empty(*label.shape[:2], *patch)
    exact = [_is_exact(one, image.shape[2:], patch) for one in matrix]
    for row in (row for row, copied in enumerate(exact) if copied):
        new_image[row] = _turn(image[row], matrix[row], patch)
        if label is not None and new_label is not None:
            new_label[row] = _turn(label[row], matrix[row], patch)
    if not all(exact):
        rows = (~torch.tensor(exact)).nonzero().squeeze(1)
        grid = sampling_grid(matrix[rows], image.shape[2:], patch).to(image.device, image.dtype)
        rows = rows.to(image.device)
        new_image[rows] = F.grid_sample(image[rows], grid, mode="bilinear", align_corners=False)
        if label is not None and new_label is not None:
            near = F.grid_sample(label[rows].to(grid), grid, mode="nearest", align_corners=False)
            new_label[rows] = near.to(label.dtype)
    return new_image, new_label


def sampling_grid(matrix: Tensor, field: Sequence[int], patch: Sequence[int]) -> Tensor:
    """``(B, *patch, D)`` for ``grid_sample``, of matrices ``[M | t]`` ``(B, D, D + 1)`` in voxels.

    Without ``align_corners`` a normalised coordinate is a voxel's distance from the centre over half of the side, so
    ``M_normalised = diag(2 / field) M diag(patch / 2)`` and ``t_normalised = diag(2 / field) t``; torch counts axes from
    the last to the first.
    """
    sides = [torch.tensor(tuple(side), dtype=torch.float64) for side in (field, patch)]
    dims = len(sides[0])
    normalised = matrix[..., :dims] * sides[1] / sides[0][:, None]
    shift = matrix[..., dims:] * 2 / sides[0][:, None]
    theta = torch.cat([normalised.flip(1, 2), shift.flip(1)], dim=2)
    return F.affine_grid(theta.float(), [len(matrix), 1, *patch], align_corners=False)


def _is_exact(matrix: Tensor, field: Sequence[int], patch: Sequence[int]) -> bool:
    """Does every voxel of the patch fall on a voxel of the box? Mirrors and exchanges of like axes do that."""
    linear, shift = matrix[:, : len(field)], matrix[:, len(field) :]
    if shift.any() or not bool(((linear == 0) | (linear.abs() == 1)).all()):
        return False
    return all((field[row] - patch[column]) % 2 == 0 for row, column in linear.nonzero().tolist())


def _turn(box: Tensor, matrix: Tensor, patch: tuple[int, ...]) -> Tensor:
    """View of the middle of ``box`` ``(C, *field)`` as a patch, for a matrix of one +-1 a row and column."""
    sources = [0] * len(patch)  # the scan's axis behind each axis of the patch
    mirrored = []
    for row, column in matrix[:, : len(patch)].nonzero().tolist():
        sources[column] = row
        box = box.narrow(row + 1, (box.shape[row + 1] - patch[column]) // 2, patch[column])
        if matrix[row, column] < 0:
            mirrored.append(row + 1)
    return box.flip(mirrored).permute(0, *[axis + 1 for axis in sources])
