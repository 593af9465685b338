"""The merged config of a run: its settings, those that differ from the bundle's own, and the start of the process."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.utils.deterministic
from monai.bundle import ConfigParser
from monai.utils import ensure_tuple

from .. import distributed
from ..errors import show_plainly
from ..seeds import derive
from .overrides import (
    TRACKING,
    begun,
    callers,
    exponent_numbers,
    judge,
    judge_files,
    judge_paths,
    overrides_and_files,
    restore,
)
from .process import keep_freed_memory, quiet_known_noise

logger = logging.getLogger(__name__)

PLAIN = {type(None), bool, int, float, str}
PROCESS = ("initialize", "run", "training", "finalize")
"""Ids that say how a process begins and ends: no settings."""


def running() -> RunConfig:
    """Return the config that is being resolved; meant for ``config: {_target_: scripts.run.config.running}``.

    Raises:
        RuntimeError: called from anywhere else.
        ConfigError: misspelt overrides of the command line, or ids of config files; paths that the command line reads
            as something else; switches that are neither on nor off: all of a kind in one text.
    """
    show_plainly()
    parser, arguments = callers()
    if parser is None:
        raise RuntimeError("running() is for an expression of a bundle's config: no ConfigParser is evaluating it")
    overrides, files = overrides_and_files(arguments) if arguments else ({}, ())
    judge_paths(overrides)
    if files:
        judge_files(files, {*PROCESS, *RunConfig.NOT_EVERYWHERE, *begun(arguments), "imports"})
        judge(overrides, files)
    restore(parser, overrides, files)
    return RunConfig(parser, files, overrides)


class RunConfig:
    """The merged config of a run.

    Args:
        parser: MONAI's parser of it, with all files and overrides merged.
        files: the config files that it was merged from, where MONAI's ``run`` did it.
        overrides: of the command line.
    """

    FREE = (
        "bundle_root", "dataset_dir", "data_list", "output_dir", "resume", "workers", "device", "mlflow_uri",
        "initial_weights", "config", "output", "run", "training", "initialize", "finalize", "train::handlers",
        "validate::handlers", "train::dataset::data", "train::unlabelled_dataset::data", "validate::dataset::data",
        "dataset", "check", "shared_scans", "inferer::sw_batch_size", "memory_share", "cache_dir", "storage", *TRACKING,
    )  # fmt: skip
    """Ids that cannot change what a resumed run computes; the scans themselves are compared by content."""

    NOT_EVERYWHERE = ("unlabelled_batch", "dropout", "spacing_mm")
    """Ids that a task or a bundle may have no use for: where nothing refers to one it is not kept."""

    def __init__(self, parser: ConfigParser, files: Any = (), overrides: Collection[str] = ()) -> None:
        self._parser, self._overrides = parser, overrides
        self.files = [str(file) for file in ensure_tuple(files)]
        raw = {k: v for k, v in parser.get().items() if k != "_meta_"}
        self.config: dict[str, Any] = without_idle(_plain(raw), self.NOT_EVERYWHERE)
        """Its content, unresolved, in types that a checkpoint and a YAML file hold."""
        self.metadata: dict[str, Any] = dict(parser.get("_meta_") or {})

    def resolved(self, name: str, default: Any = None) -> Any:
        """Return the value of an id after expressions and references; ``default`` where the config has none."""
        return self._parser.get_parsed_content(name) if name in self.config else default

    @property
    def bundle_root(self) -> Path:
        return Path(str(self.resolved("bundle_root", "."))).resolve()

    def start(self) -> None:
        """Seed, log the settings that differ, and set the process up: the first expression of ``run``."""
        seed = int(self.resolved("seed", 0))
        torch.manual_seed(derive(seed, "network"))
        torch.backends.cudnn.deterministic = True  # exact resume
        torch.backends.cudnn.benchmark = False
        if torch.device(self.resolved("device", "cpu")).type == "cuda":
            _repeat_where_possible()
        quiet_known_noise()
        if distributed.rank() > 0:  # one rank reports; warnings come from all
            logging.getLogger(__name__.partition(".")[0]).setLevel(logging.WARNING)
        keep_freed_memory()
        for line in self.summary():
            logger.info("%s", line)
        for name in self.idle_overrides():
            logger.warning("--%s changes nothing: no part of this run refers to it.", name)

    def idle_overrides(self) -> list[str]:
        """Return the overrides that nothing in the config refers to, such as a spacing where nothing is resampled."""
        names = {name.replace("#", "::").partition("::")[0] for name in self._overrides}
        return [name for name in self.NOT_EVERYWHERE if name in names and name not in self.config]

    def rounding(self) -> str:
        """Return what to say where a training takes other steps than ``steps``, as its epochs are whole; else nothing."""
        steps, each = self.resolved("steps"), self.resolved("epoch_steps")
        if steps is None or each is None or self._parser.get("train::trainer::max_epochs") is None:
            return ""
        epochs = self._parser.get_parsed_content("train::trainer::max_epochs")
        if epochs * each == steps:
            return ""
        return f"This run takes {epochs * each} steps, not {steps}: {epochs} whole epochs of {each}."

    def settings(self) -> dict[str, Any]:
        """Return the plain values of the top level, resolved: what a user may change, no component, no program."""
        plain = [name for name, value in self.config.items() if _is_plain(value)]
        return {name: self.resolved(name) for name in plain if name not in ("run", "training")}

    def filled(self) -> dict[str, Any]:
        """Return the config with the value of each plain setting wherever it is referred to: numbers, not names."""
        settings = self.settings()

        def fill(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: fill(v) for k, v in value.items()}
            if isinstance(value, list):
                return [fill(v) for v in value]
            return settings.get(value[1:], value) if isinstance(value, str) and value.startswith("@") else value

        return fill({**self.config, **settings})

    def summary(self) -> list[str]:
        """Return the lines that say what differs from the bundle's own files, overlays of its own among them, which the first
        line names; none where the files are not known."""
        if not self.files:
            return []
        configs = Path(self.files[0]).resolve().parent
        files = [file for file in self.files if Path(file).resolve().parent == configs]
        parser = ConfigParser(ConfigParser.load_config_files(files))
        parser.update(exponent_numbers(parser.get()))
        parser.resolve_macro_and_relative_ids()
        lines = [
            f"  {name} = {_shown(now)} (bundle: {_shown(own)})"
            for name, own, now in _changes(RunConfig(parser).config, self.config)
            if name.partition("::")[0] not in PROCESS and not (own is ABSENT and name in TRACKING)
        ]
        own = " and ".join(files)
        return [f"Settings that differ from {own}:" if lines else f"Settings: all as in {own}.", *lines]


def _repeat_where_possible() -> None:
    """Ask, on a GPU, for the deterministic form of each operation that has one; PyTorch warns of the others by name."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS, before its first call
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # costs time, and nothing reads such memory
    torch.use_deterministic_algorithms(True, warn_only=True)


ABSENT = object()


def _changes(own: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield id, own and present value of what differs. A component of another class differs as a whole."""
    if isinstance(own, list) and isinstance(now, list) and len(own) == len(now) and any(map(_nested, own)):
        own, now = dict(enumerate(own)), dict(enumerate(now))
    if isinstance(own, dict) and isinstance(now, dict) and own.get("_target_") == now.get("_target_"):
        for key in {**own, **now}:
            yield from _changes(own.get(key, ABSENT), now.get(key, ABSENT), f"{name}::{key}" if name else str(key))
    elif type(own) is not type(now) or own != now:
        yield name, own, now


def _nested(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _shown(value: Any) -> str:
    """A value in a few words: long lists by their length, components by their class."""
    if value is ABSENT:
        return "not set"
    if isinstance(value, dict) and "_target_" in value:
        return f"a {str(value['_target_']).rpartition('.')[2]}"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value) or "''"
    if len(text) <= 80:
        return text
    return f"{len(value)} items" if _nested(value) else f"{text[:77]}..."


def without_idle(config: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return ``config`` without those of ``names`` that nothing in it refers to."""
    referred = referred_ids(config)
    return {name: value for name, value in config.items() if name not in names or name in referred}


def referred_ids(value: Any) -> set[str]:
    """Return the top-level ids that a part of a config refers to."""
    return set(re.findall(r"@(\w+)", str(value)))


def _plain(value: Any) -> Any:
    """A copy in types that a checkpoint and a YAML file hold; anything else (a path) as its text."""
    if isinstance(value, dict):
        return {k if type(k) in PLAIN else str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if type(value) in PLAIN else str(value)


def _is_plain(value: Any) -> bool:
    """Numbers, short texts, lists and dicts of them; no component, reference or program."""
    if isinstance(value, dict):
        return "_target_" not in value and all(_is_plain(v) for v in value.values())
    if isinstance(value, list):
        return all(_is_plain(v) for v in value)
    if isinstance(value, str) and "$" in value:
        return value.startswith("$@bundle_root")
    return not (isinstance(value, str) and value.startswith("@"))
