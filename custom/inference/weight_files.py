"""Where the files of trained networks lie."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events
from monai.utils import ensure_tuple
from torch import nn

from ..errors import UserError
from ..files import located, under
from ..placeholders import placeholder
from ..run.config import RunConfig
from ..run.overrides import callers, overrides_and_files
from ..run.trained import WINDOWS, changed_since_training, check_trained
from . import state_dict
from .state_dict import WeightsError

INITIAL_FREE = ("label_values", "inferer", "patch")  # no weight depends on them

__all__ = [
    "InitialWeights",
    "LoadWeights",
    "NoWeights",
    "WeightsError",
    "find",
    "folder",
    "load_weights",
    "trained_alike",
]

logger = logging.getLogger(__name__)

OUTPUT = "eval"  # below the bundle: where the configs' own output_dir is


class NoWeights(UserError, FileNotFoundError):
    """No trained network is where one is expected."""


def find(bundle_root: str | Path, name: str = "model.pt") -> str:
    """The weights that a bundle serves: those of the last training in ``eval/``, else those shipped in ``models/``.

    Raises:
        NoWeights: neither is there, or something lies in the place of one.
    """
    root = Path(bundle_root)
    places = [root / OUTPUT / "bundle" / "models" / name, root / "models" / name]
    for path, whose in zip(places, ("of the last training", "shipped with the bundle"), strict=True):
        refuse_placeholder(path)
        if path.is_file():
            logger.info("Weights: %s, %s.", path, whose)
            return str(path)
    raise NoWeights(
        f"no weights: neither {places[0].resolve()} nor {places[1].resolve()} exists. {_elsewhere(root, name)}Train first, "
        "or give them with --model_file."
    )


def trained_alike(root: str | Path, path: str | Path, config: RunConfig) -> Path:
    """The absolute path of weights that were trained under the settings of this inference, except for its windows.

    Args:
        root: of the bundle.
        path: of the weights, absolute or below ``root``.
        config: of the inference.

    Raises:
        NoWeights: nothing is there, or something lies in their place.
        TrainedOtherwiseError: the bundle around the weights was trained under other settings.
        WeightsError: the file is damaged, or holds no weights; see :func:`.state_dict.read`.
    """
    path = located(Path(root) / Path(path).expanduser())
    refuse_placeholder(path)
    if not path.is_file():
        raise NoWeights(f"no weights: {path} does not exist. Give a file of weights with --model_file.")
    check_trained(path.parents[1], config, WINDOWS)
    state_dict.read(path)  # before an image is
    return path


def folder(bundle_root: str | Path, output_dir: str | Path) -> str:
    """The ``models`` folder to evaluate: of the run in ``output_dir``. Where that is ``eval`` in the bundle, as its configs have
    it, and no run is there, the bundle's own (a finished run's, or shipped).

    Raises:
        NoWeights: there is no ``model.pt``, or something lies in its place; also where ``output_dir`` is another folder, which
            would be scored under a wrong name.
    """
    root, output = Path(bundle_root), under(bundle_root, output_dir)
    own, run = root.resolve() / "models", output / "bundle" / "models"
    by_default = output == under(root, OUTPUT)
    places = {run: "of the run in output_dir"} | ({own: "the bundle's own"} if by_default else {})
    for path, whose in places.items():
        refuse_placeholder(path / "model.pt")
        if (path / "model.pt").is_file():
            logger.info("Weights: %s, %s.", path, whose)
            return str(path)
    if by_default:
        raise NoWeights(
            f"nothing to evaluate: there is no model.pt in {run} nor in {own}. {_elsewhere(root)}Train first, or give the "
            "folder of a run with --output_dir."
        )
    otherwise = f"; for the bundle's own weights add --models_dir {own}" if (own / "model.pt").is_file() else ""
    raise NoWeights(
        f"nothing to evaluate: --output_dir {output} holds {'no run' if output.is_dir() else 'nothing, it does not exist'}; "
        f"expected bundle/models/model.pt in it. Give the output_dir of a run, or train into it first{otherwise}."
    )


def _elsewhere(root: Path, name: str = "model.pt") -> str:
    """Where the bundle of the config file that runs has weights and ``root`` has none: what to do about it."""
    _, arguments = callers()
    files = overrides_and_files(arguments)[1] if arguments else ()
    for file in ensure_tuple(files)[:1]:
        bundle = Path(str(file)).resolve().parents[1]
        models = (bundle / OUTPUT / "bundle" / "models", bundle / "models")
        if bundle != root.resolve() and any((path / name).is_file() for path in models):
            return f"{bundle}, which the config file belongs to, has weights: cd {bundle}, or --bundle_root {bundle}. "
    return ""


def refuse_placeholder(path: Path) -> None:
    """Raises :class:`NoWeights` where a link that leads nowhere, or a pointer of Git LFS, lies in the place of weights."""
    if found := placeholder(path):
        raise NoWeights(f"the weights {path}: this {found}.")


class InitialWeights:
    """Handler: load the weights that a training starts from, before its first step. Settings that they were trained under
    and that this run has otherwise are logged: training may mend what they change, and they may be meant.

    Args:
        file: of the first network; absolute, or below ``root``.
        root: of the bundle.
        networks: that start from weights. With several of them the next ones have files of their own beside the first.
        names: of the networks; of ``model.pt`` the second's file is ``NAME.pt``, as a run writes it.
        config: of the run; None compares nothing.

    Raises:
        WeightsError: at the start, weights that do not fit a network.
    """

    def __init__(
        self,
        file: str,
        root: str | Path,
        networks: Sequence[nn.Module],
        names: Sequence[str] = ("model",),
        config: RunConfig | None = None,
    ) -> None:
        self.config = config
        first = located(Path(root) / Path(file).expanduser())
        files = [first, *(first.with_name(first.name.replace("model", name)) for name in names[1:])]
        self.files = dict(zip(files, networks, strict=True))

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)

    def _load(self) -> None:
        for file, network in self.files.items():
            load_weights(network, file)
            logger.info("Weights to start from: %s.", file)
        self._say_what_changed(next(iter(self.files)).parents[1])

    def _say_what_changed(self, bundle: Path) -> None:
        found = None if self.config is None else changed_since_training(bundle, self.config, INITIAL_FREE)
        if found:
            logger.warning("These weights to start from were trained under other settings (%s):\n  %s", bundle,
                           "\n  ".join(found))  # fmt: skip


class LoadWeights:
    """Handler: load the weights that serve, when the run starts.

    Args:
        network: that gets them.
        file: of the weights.

    Raises:
        WeightsError, NoWeights: at the start, as :func:`load_weights`.
    """

    def __init__(self, network: nn.Module, file: str | Path) -> None:
        self.network, self.file = network, Path(file)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)

    def _load(self) -> None:
        load_weights(self.network, self.file)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a file of weights.

    Raises:
        WeightsError: they are damaged, are not weights, or do not fit the network; see :mod:`.state_dict`.
        NoWeights: something lies in their place.
    """
    refuse_placeholder(path)
    state_dict.load(network, path)
