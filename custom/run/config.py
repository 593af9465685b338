"""What a run was told: the merged config, judged for misspelt overrides, printed, and kept."""

from __future__ import annotations

import ctypes
import inspect
import logging
import platform
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS
from monai.utils import ensure_tuple

from .. import distributed
from ..errors import UserError, nearest, show_plainly
from ..methods.schedule import TermWeights
from ..seeds import derive

logger = logging.getLogger(__name__)

PLAIN = {type(None), bool, int, float, str}
# Settings that `--tracking` brings with it; its handlers (trainer, validator, evaluator) are no ids of a config.
_TRACKERS: dict[str, dict[str, Any]] = DEFAULT_EXP_MGMT_SETTINGS
TRACKING = tuple(key for s in _TRACKERS.values() for key in s["configs"] if key not in s["handlers_id"])


class ConfigError(UserError, ValueError):
    """An override that names nothing."""


def running() -> RunConfig:
    """The config that is being resolved; meant for ``config: {_target_: scripts.run.config.running}``.

    MONAI hands an expression no way to the parser that evaluates it, nor to the overrides of the command line: both
    are found on the call stack. Without MONAI's ``run`` on it (a workflow made by hand) no override is judged.

    Raises:
        RuntimeError: called from anywhere else.
        ConfigError: misspelt overrides, all in one text.
    """
    show_plainly()
    parser: ConfigParser | None = None
    overrides: dict[str, Any] = {}
    files: Any = ()
    for frame in (info.frame for info in inspect.stack(context=0)):
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser) and parser is None:
            parser = owner
        if frame.f_globals.get("__name__") == "monai.bundle.scripts" and frame.f_code.co_name == "run":
            overrides, files = _told(frame.f_locals)
    if parser is None:
        raise RuntimeError("running() is for an expression of a bundle's config: no ConfigParser is evaluating it")
    for name, value in overrides.items():
        if isinstance(value, str) and value.lower() in ("true", "false"):
            _set(parser, name.replace("#", "::"), value.lower() == "true")
    config = RunConfig(parser, files)
    if files:
        _judge(overrides, ConfigParser.load_config_files(files))
    return config


def _told(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Overrides and config files of ``monai.bundle.run``, from its arguments and its args file."""
    told = dict(ConfigParser.load_config_file(arguments["args_file"])) if arguments.get("args_file") else {}
    files = arguments.get("config_file") or told.pop("config_file", None)
    own = set(inspect.signature(inspect.unwrap(_monai_run())).parameters)
    return {k: v for k, v in {**told, **arguments["override"]}.items() if k not in own}, files


def _set(parser: ConfigParser, name: str, value: bool) -> None:
    """``--gates false`` reaches MONAI as the text "false", which Python holds for true. ``parser[name] = ...`` would
    forget what is being resolved at this moment."""
    parts = name.split("::")
    parent: Any = parser.config
    for part in parts[:-1]:
        parent = parent[int(part) if isinstance(parent, list) else part]
    parent[int(parts[-1]) if isinstance(parent, list) else parts[-1]] = value
    if item := parser.ref_resolver.items.get(name):
        item.update_config(value)
    parser.ref_resolver.resolved_content.pop(name, None)


def _monai_run() -> Any:
    from monai.bundle.scripts import run

    return run


def _judge(overrides: Mapping[str, Any], written: dict[str, Any]) -> None:
    """Refuse an override whose id is neither in the files nor an argument that a component there takes."""
    known = list(_ids(written))
    faults = []
    for key in overrides:
        name = key.lstrip("+").replace("#", "::")
        if name in known or name in TRACKING or name.startswith("_meta_"):
            continue
        parent, _, leaf = name.rpartition("::")
        arguments = set(TermWeights.KEYS) if parent.startswith("weights::") else _arguments_of(written, parent)
        if arguments is None:
            faults.append(f"--{name}: the config has no such id{nearest(name, known)}")
        elif leaf not in arguments and "*" not in arguments:
            faults.append(f"--{name}: {parent} takes no argument {leaf!r}{nearest(leaf, arguments)}")
    if faults:
        raise ConfigError("Misspelt overrides, nothing was started:\n  " + "\n  ".join(faults))


def _ids(config: Any, prefix: str = "") -> Iterator[str]:
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield f"{prefix}{key}"
        yield from _ids(value, f"{prefix}{key}::")


def _arguments_of(config: Any, component: str) -> set[str] | None:
    """Arguments that the component with that id takes (``*``: any); None where there is no such component."""
    for key in component.split("::") if component else []:
        if isinstance(config, list):
            config = dict(enumerate(config)).get(int(key)) if key.isdecimal() else None
        else:
            config = config.get(key) if isinstance(config, dict) else None
    if not isinstance(config, dict) or "_target_" not in config:
        return None
    target = locate(str(config["_target_"])) or _monai_component(str(config["_target_"]))
    if target is None:
        return {"*"}
    try:
        parameters = inspect.signature(target).parameters.values()  # type: ignore[arg-type]
    except ValueError:  # written in C, without a signature
        return {"*"}
    names = {p.name for p in parameters} | {"_disabled_", "_requires_", "_desc_", "_mode_"}
    return names | ({"*"} if any(p.kind is p.VAR_KEYWORD for p in parameters) else set())


def _monai_component(name: str) -> Any:
    from monai.bundle import ComponentLocator

    module = ComponentLocator().get_component_module_name(name)
    return locate(f"{module}.{name}") if isinstance(module, str) else None


class RunConfig:
    """The merged config of a run.

    Args:
        parser: MONAI's parser of it, with all files and overrides merged.
        files: the config files that it was merged from, where MONAI's ``run`` did it.
    """

    FREE = (
        "bundle_root", "dataset_dir", "data_list", "output_dir", "resume", "workers", "device", "mlflow_uri",
        "initial_weights", "config", "output", "run", "training", "initialize", "finalize", "train::handlers",
        "validate::handlers", "train::dataset::data", "train::unlabelled_dataset::data", "validate::dataset::data",
        "dataset", "check", "shared_scans", "inferer::sw_batch_size", *TRACKING,
    )  # fmt: skip
    """Ids that cannot change what a resumed run computes; the scans themselves are compared by content."""

    def __init__(self, parser: ConfigParser, files: Any = ()) -> None:
        self._parser = parser
        self.files = [str(file) for file in ensure_tuple(files)]
        raw = {k: v for k, v in parser.get().items() if k != "_meta_"}
        self.config: dict[str, Any] = _plain(raw)
        self.metadata: dict[str, Any] = dict(parser.get("_meta_") or {})

    def resolved(self, name: str, default: Any = None) -> Any:
        """The value of an id after expressions and references; ``default`` where the config has none."""
        return self._parser.get_parsed_content(name) if name in self.config else default

    @property
    def bundle_root(self) -> Path:
        return Path(str(self.resolved("bundle_root", "."))).resolve()

    def comparable(self) -> dict[str, Any]:
        """What a checkpoint keeps to refuse a resume under other settings."""
        return self.config

    def start(self) -> None:
        """The first expression of ``run``: seeds, says what was resolved, and sets the process up."""
        seed = int(self.resolved("seed", 0))
        torch.manual_seed(derive(seed, "network"))
        torch.backends.cudnn.deterministic = True  # exact resume
        torch.backends.cudnn.benchmark = False
        quiet_known_noise()
        if distributed.rank() > 0:  # one rank reports; warnings come from all
            logging.getLogger(__package__).setLevel(logging.WARNING)
        keep_freed_memory()
        for line in self.summary():
            logger.info("%s", line)

    def settings(self) -> dict[str, Any]:
        """The plain settings of the config's top level, resolved: what a user may change, no component, no program."""
        plain = [name for name, value in self.config.items() if _is_plain(value)]
        return {name: self.resolved(name) for name in plain if name not in ("run", "training")}

    def filled(self) -> dict[str, Any]:
        """The config with the value of each plain setting wherever it is referred to: numbers instead of names."""
        settings = self.settings()

        def fill(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: fill(v) for k, v in value.items()}
            if isinstance(value, list):
                return [fill(v) for v in value]
            return settings.get(value[1:], value) if isinstance(value, str) and value.startswith("@") else value

        return fill({**self.config, **settings})

    def summary(self) -> list[str]:
        """The settings, a few to a line."""
        texts = [f"{name}={value}" for name, value in self.settings().items()]
        lines, line = [], "settings"
        for text in texts:
            if len(line) + len(text) > 116:
                lines.append(line)
                line = "        "
            line += f"  {text}"
        return [*lines, line]


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


def quiet_known_noise() -> None:
    """Warnings of pinned libraries about their own insides, which no user can act on."""
    warnings.filterwarnings("ignore", message=r".*`torch\.cuda\.amp\.GradScaler.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r".*non-tuple sequence for multidimensional indexing.*")
    warnings.filterwarnings("ignore", message=r".*torch\.jit\.(script|trace|export).*", category=DeprecationWarning)


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks instead of handing them back to the kernel, where there is glibc.

    A training step frees and takes the same blocks again; with the default every one of them is mapped and zeroed
    anew, which costs a third of a 2D step on a CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
