"""Which scan next: MONAI Label's ``random`` and ``first``, and beside them two that look at the scans, and a study's list.

``spread`` needs no network: each next scan is the one most typical of what is not labelled yet. ``informative`` ranks
the unlabelled scans by what the served networks do not know (:mod:`.ranking`); before there are weights and some
labels it is ``spread``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from custom.cohort.formats import open_scan
from custom.networks.probabilities import Probabilities

from . import ranking

logger = logging.getLogger(__name__)

BUDGET = 32  # scans that one request may newly read or score
SECONDS = 5.0  # after which it stops doing so; at least one is done
FEW = 5  # labels below which the networks are not asked
CACHE = "informative"  # key in what the datastore knows of an image
# what a kept score was computed with: by 1 it was the softmax of any network, by 2 the disagreement of an average with the
# network that it follows, where a second one is trained (cps)
SCORED_BY = 3
UNTRAINED = "untrained"
MAX_VOXELS = 2**29  # of a scan; 2 GiB as float32

Sample = dict[str, Any]


class Networks(Protocol):
    """What is asked of the served bundle (:class:`annotate.bundle.Served`)."""

    def networks(self) -> dict[str, Path]: ...

    def version(self) -> str: ...

    def logits(self, image: Path, weights: Path) -> Tensor: ...

    def probabilities(self, weights: Path) -> Probabilities: ...


class Datastore(Protocol):
    """What is asked of MONAI Label's datastore."""

    def get_unlabeled_images(self) -> list[str]: ...

    def get_labeled_images(self) -> list[str]: ...

    def get_image_uri(self, image_id: str) -> str: ...

    def get_image_info(self, image_id: str) -> dict[str, Any]: ...

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None: ...


class Strategy:
    """What MONAI Label asks of one, without importing it: ``info()``, and a call with request and datastore."""

    description = ""

    def info(self) -> dict[str, str]:
        return {"description": self.description}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> Sample | None:
        """``{"id": name, ...}`` of the next scan; None where all are labelled."""
        raise NotImplementedError


def strategies(served: Networks, order: Path) -> dict[str, Any]:
    """All of them, the one that is asked unless an annotator chooses another first; needs MONAI Label.

    Args:
        served: the bundle.
        order: a study's list, see :class:`Listed`; need not be there.
    """
    from monailabel.tasks.activelearning.first import First
    from monailabel.tasks.activelearning.random import Random

    listed = {"study": Listed(order, Informative(served))} if order.is_file() else {}
    return {
        **listed,
        "informative": Informative(served),
        "spread": Spread(),
        "random": Repeatable(Random()),
        "first": First(),
    }


class Repeatable(Strategy):
    """MONAI Label's ``random``, which fails where every unlabelled scan was already shown within this second.

    Its weights are the seconds since a scan was last shown; random.choices refuses weights that are all 0.
    """

    def __init__(self, stock: Any) -> None:
        self.stock, self.description = stock, "A random unlabelled scan, rather one that was not shown lately"

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> Sample | None:
        try:
            return self.stock(request, datastore)
        except ValueError:
            return {"id": random.choice(datastore.get_unlabeled_images())}


class Listed(Strategy):
    """The first scan of a list that has no label yet.

    Args:
        order: JSON, names of scans without suffix.
        then: asked when all of the list have a label, or none of it is here.
    """

    description = "The next scan of the study's page: nothing found first, then the lowest predicted Dice"

    def __init__(self, order: Path, then: Strategy) -> None:
        self.names: list[str] = json.loads(order.read_text(encoding="utf-8"))
        self.then = then

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> Sample | None:
        unlabelled = set(datastore.get_unlabeled_images())
        for place, name in enumerate(self.names, start=1):
            if name in unlabelled:
                return {"id": name, "reason": f"number {place} of {len(self.names)} on the study's page"}
        return self.then(request, datastore)


class Spread(Strategy):
    """The unlabelled scan that stands for most of what no labelled one is like; of none labelled, for most of all.

    Scans are compared by :func:`.ranking.features`, which are kept in memory until the file changes. Of a large pool
    each request reads a part, and chooses among what was read so far.

    Args:
        budget: labelled, and unlabelled, scans that one request may read, at least 1.
        seconds: after which it stops reading the ones, and the others.
    """

    description = "The unlabelled scan most typical of what is not labelled yet; needs no trained network"

    def __init__(self, budget: int = BUDGET, seconds: float = SECONDS) -> None:
        self.budget, self.seconds = budget, seconds
        self._features: dict[str, tuple[str, Tensor | None]] = {}  # by image: state of the file, None: unreadable

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> Sample | None:
        unlabelled = sorted(datastore.get_unlabeled_images())
        labelled = sorted(datastore.get_labeled_images())
        if not unlabelled:
            return None
        paths = {name: Path(datastore.get_image_uri(name)) for name in (*labelled, *unlabelled)}
        self._read_some(labelled, paths)
        self._read_some(_mixed(unlabelled), paths)
        found = {name: known for name in paths if (known := self._features.get(name, ("", None))[1]) is not None}
        names = [name for name in labelled if name in found] + [name for name in unlabelled if name in found]
        candidates = set(unlabelled)
        if candidates.isdisjoint(names):
            return {"id": unlabelled[0], "reason": "no scan could be read"}
        chosen = [i for i, name in enumerate(names) if name not in candidates]
        points = torch.stack([found[name] for name in names])
        best = names[ranking.spread(points, chosen, count=1)[0]]
        reason = f"typical of what the {len(chosen)} labelled are not" if chosen else "the most like all others"
        return {
            "id": best,
            "reason": f"{reason}, among {len(names) - len(chosen)} of {len(unlabelled)} unlabelled scans",
        }

    def _read_some(self, names: list[str], paths: Mapping[str, Path]) -> None:
        """Read those that were not read, or changed since."""
        unread = [name for name in names if self._features.get(name, ("", None))[0] != _state(paths[name])]
        _within(unread, lambda name: self._read(name, paths[name]), self.budget, self.seconds)

    def _read(self, name: str, path: Path) -> None:
        state = _state(path)
        try:
            scan = open_scan(path, MAX_VOXELS)
            voxels = np.moveaxis(scan.voxels, -1, 0) if scan.channels_last else scan.voxels[None]
            self._features[name] = state, ranking.features(torch.from_numpy(voxels.astype(np.float32)))
        except Exception as error:  # one bad file must not end the annotation of the others
            logger.warning("%s is passed over: %s", name, error)
            self._features[name] = state, None


class Informative(Strategy):
    """The unlabelled scan with the highest :func:`.ranking.score` by the networks that serve.

    A score is kept with the image in the datastore, beside the version of the weights and the state of the file that it
    belongs to; a training brings a new version, and all scores are made anew, some at each request in an order that is
    mixed by a hash of the name. Scans that have no score yet come after those that have one: what is asked for is
    answered now, by the best of what is known.

    Args:
        served: the bundle.
        budget: scans that one request may score, at least 1.
        seconds: after which it stops scoring.
        few: below so many labels the networks are not asked: what they are unsure of is then what is odd, and a scan
            that is odd teaches little about the others.
        cold_start: asked instead, and before there are weights, and where no scan could be scored.
    """

    description = "The unlabelled scan on which the networks disagree and are unsure the most"

    def __init__(
        self,
        served: Networks,
        budget: int = BUDGET,
        seconds: float = SECONDS,
        few: int = FEW,
        cold_start: Strategy | None = None,
    ) -> None:
        self.served, self.budget, self.seconds, self.few = served, budget, seconds, few
        self.cold_start = cold_start or Spread(budget, seconds)

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> Sample | None:
        unlabelled = sorted(datastore.get_unlabeled_images())
        version = self.served.version()
        if not unlabelled or version == UNTRAINED or len(datastore.get_labeled_images()) < self.few:
            return self.cold_start(request, datastore)
        known = {name: self._kept(name, version, datastore) for name in unlabelled}
        unknown = [name for name in _mixed(unlabelled) if known[name] is None]
        for name in _within(unknown, lambda name: self._score(name, version, datastore), self.budget, self.seconds):
            known[name] = self._kept(name, version, datastore)
        scored = {name: kept for name, kept in known.items() if kept and kept["score"] is not None}
        if not scored:
            return self.cold_start(request, datastore)
        best = min(scored, key=lambda name: (-scored[name]["score"], name))
        reason = (
            f"score {scored[best]['score']:.3f}, the highest of {len(scored)} of {len(unlabelled)} unlabelled scans"
        )
        return {"id": best, "score": scored[best]["score"], "version": version, "reason": reason}

    def _kept(self, name: str, version: str, datastore: Datastore) -> dict[str, Any] | None:
        kept = datastore.get_image_info(name).get(CACHE)
        now = {"version": version, "file": _state(Path(datastore.get_image_uri(name))), "scored_by": SCORED_BY}
        return kept if isinstance(kept, dict) and {key: kept.get(key) for key in now} == now else None

    def _score(self, name: str, version: str, datastore: Datastore) -> None:
        image = Path(datastore.get_image_uri(name))
        state = _state(image)
        weights = self.served.networks()
        # of cps the last is "second", which the served average does not follow
        names = ["model", *sorted(set(weights) - {"model"})[-1:]]
        try:
            logits = [self.served.logits(image, weights[network]) for network in names]
            score = ranking.score(logits, probabilities=self.served.probabilities(weights["model"]))
        except Exception as error:  # one bad file must not end the annotation of the others
            logger.warning("%s has no score: %s", name, error)
            score = None
        kept = {"version": version, "file": state, "scored_by": SCORED_BY, "score": score}
        datastore.update_image_info(name, {CACHE: kept})


def _within(names: list[str], do: Callable[[str], None], budget: int, seconds: float) -> list[str]:
    """Do it for the first names, at most ``budget`` and for about ``seconds``, at least for one; says for which."""
    end, done = time.monotonic() + seconds, []
    for name in names[: max(budget, 1)]:
        do(name)
        done.append(name)
        if time.monotonic() > end:
            break
    return done


def _mixed(names: list[str]) -> list[str]:
    """The scans in an order that has nothing to do with the names, so that the first ones stand for all; always the same."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def _state(path: Path) -> str:
    """Changes when the file does."""
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return f"{found.st_size}-{found.st_mtime_ns}"
