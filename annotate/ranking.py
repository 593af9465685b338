"""How much a scan would teach, by what the networks say of it; and which scans stand for the others where none speaks yet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from custom.networks.probabilities import Probabilities, softmax

THRESHOLD = 0.8  # below it a voxel is of low confidence
BINS = 16  # of the histogram
THUMBNAIL = {2: 8, 3: 4}  # voxels along each axis, by axes: 64 in all
PERCENTILES = (0.005, 0.995)
SAMPLE = 2**20  # voxels that the percentiles are taken of


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    r"""Share of the voxels that either network calls foreground on which their classes differ.

    .. math:: D = \frac{|\{v : a_v \ne b_v\}|}{|\{v : a_v > 0 \text{ or } b_v > 0\}|}

    with the classes :math:`a, b` of largest logit, 0 the background. With one foreground class it is the Jaccard
    distance. Two networks that find nothing agree: 0.

    Shape:
        - first, second: logits ``(K, *spatial)``, K >= 2, equal shapes.
        - returns: ``()``, dimensionless, in [0, 1].

    Raises:
        ValueError: shapes that differ; fewer than two classes.
    """
    if first.shape != second.shape:
        raise ValueError(f"first {tuple(first.shape)} and second {tuple(second.shape)} differ in shape")
    a, b = _classes(first), _classes(second)
    return (a != b).sum() / ((a > 0) | (b > 0)).sum().clamp(min=1)


def low_confidence(logits: Tensor, threshold: float = THRESHOLD, probabilities: Probabilities = softmax) -> Tensor:
    r"""Share of low confidence among the voxels that are not surely background.

    .. math:: U = \frac{|\{v : \max_k p_{vk} < \tau\}|}{|\{v : c_v > 0 \text{ or } \max_k p_{vk} < \tau\}|}

    with the class :math:`c` of largest logit. A voxel at the threshold is sure. A background that may be foreground
    counts as well, so that a network that finds nothing because it is sure of nothing has 1, one that is sure that
    nothing is there 0.

    Args:
        probabilities: of the network, see :func:`~custom.networks.probabilities.probabilities_of`: one that was trained
            with sigmoids is unsure elsewhere than the softmax of its logits says.

    Shape:
        - logits: ``(K, *spatial)``, K >= 2.
        - returns: ``()``, dimensionless, in [0, 1].

    Raises:
        ValueError: a threshold outside [0, 1]; fewer than two classes.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a probability in [0, 1], got {threshold}")
    found = _classes(logits) > 0  # (*spatial)
    p = probabilities(logits[None].to(torch.promote_types(logits.dtype, torch.float32)))[0]  # (K, *spatial)
    unsure = p.amax(dim=0) < threshold  # (*spatial)
    return unsure.sum() / (found | unsure).sum().clamp(min=1)


def score(logits: Sequence[Tensor], threshold: float = THRESHOLD, probabilities: Probabilities = softmax) -> float:
    """The mean of disagreement and low confidence, in [0, 1]: the larger, the more the scan would teach.

    Both are shares of nearly the same voxels, so neither needs a weight. The first network is the one that serves; its
    confidence counts, and its disagreement with the second. One network alone has no disagreement: its low confidence
    is the score. So scores of bundles with one and with two networks are not on one scale, those of a bundle are.

    Args:
        logits: ``(K, *spatial)`` of one or two networks.
        probabilities: of the first network.
    """
    unsure = float(low_confidence(logits[0], threshold, probabilities))
    return unsure if len(logits) == 1 else (float(disagreement(logits[0], logits[1])) + unsure) / 2


def features(image: Tensor) -> Tensor:
    """A scan in few numbers that need no network: how bright it is, and roughly where.

    Intensities are scaled to [0, 1] between the 0.5 and 99.5 percentiles of the scan, its channels averaged. Then come
    the roots of a histogram's shares (their distance is at most the root of 2) and a thumbnail divided by the root of
    its size (their distance is the root mean square of the differences, at most 1).

    Shape:
        - image: ``(C, *spatial)``, two or three spatial axes.
        - returns: ``(16 + 64,)``, float32; a voxel that is not finite counts as the darkest.
    """
    image = image.float()
    finite = image[image.isfinite()]
    if not len(finite):
        finite = torch.zeros(1)
    ends = torch.quantile(finite[:: max(len(finite) // SAMPLE, 1) + 1], torch.tensor(PERCENTILES))
    low, high = ends[0], ends[1]
    scaled = ((image.nan_to_num(float(low), float(low), float(low)) - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    mean = scaled.mean(dim=0)  # (*spatial)
    histogram = torch.histc(mean, BINS, 0, 1) / mean.numel()
    pool = {2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}[mean.dim()]
    thumbnail = pool(mean[None, None], THUMBNAIL[mean.dim()]).flatten()
    return torch.cat([histogram.sqrt(), thumbnail / len(thumbnail) ** 0.5])


def spread(points: Tensor, chosen: Sequence[int] = (), count: int | None = None) -> list[int]:
    r"""The order in which points stand for their set: each next one lowers the mean distance to the nearest the most.

    .. math:: i_{n + 1} = \arg\min_i \sum_x \min_{j \in \{i_1 ... i_n, i\}} \lVert x - x_j \rVert

    Greedy k-medoids: the first is the medoid, later ones come from what is common and not yet near a chosen one. (The
    farthest point, which greedy k-centre takes, was tried first: with few labels it chooses the odd scans, and was far
    worse than chance in ``benchmarks.annotate``.) Ties go to the smaller index.

    Args:
        points: ``(N, F)``.
        chosen: indices of those that come first; they are not returned.
        count: how many to choose; all others by default.

    Returns:
        Indices in order.
    """
    distances = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")  # (N, N)
    order, left = list(chosen), [i for i in range(len(points)) if i not in set(chosen)]
    # (N,); before anything is chosen all are as far as can be
    nearest = distances[order].amin(dim=0) if order else torch.full((len(points),), torch.inf, dtype=torch.float64)
    for _ in range(len(left) if count is None else min(count, len(left))):
        costs = torch.minimum(nearest, distances[left]).sum(dim=1).tolist()
        best = min(zip(costs, left, strict=True))[1]
        order.append(best)
        left.remove(best)
        nearest = nearest.minimum(distances[best])
    return order[len(chosen) :]


def _classes(logits: Tensor) -> Tensor:
    """Class of each voxel: ``(K, *spatial)`` to ``(*spatial)``."""
    if logits.dim() < 2 or logits.shape[0] < 2:
        raise ValueError(f"classes need K >= 2 on axis 0, got {tuple(logits.shape)}")
    return logits.argmax(dim=0)
