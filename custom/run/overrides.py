"""Overrides of a command line: found, read as what they mean, and refused where they name nothing."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from types import FrameType
from typing import Any

from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser
from monai.bundle import run as monai_run
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS, merge_kv
from monai.utils import ensure_tuple

from ..errors import UserError, nearest
from ..methods.schedule import TermWeights

_TRACKERS: dict[str, dict[str, Any]] = DEFAULT_EXP_MGMT_SETTINGS
TRACKING = tuple(key for s in _TRACKERS.values() for key in s["configs"] if key not in s["handlers_id"])
"""Settings that ``--tracking`` brings with it; its handlers (trainer, validator, evaluator) are not ids of a config."""


PATHS = ("dataset_dir", "data_list", "output_dir", "bundle_root", "model_file", "initial_weights")
SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""The words of YAML 1.1 for true and false, in any case."""
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
"""Numbers of YAML 1.2 that YAML 1.1, and so PyYAML, may take for texts: 1e-3, 1.5e3."""
WORDS = (*PATHS, *TRACKING, "cache_dir", "mlflow_uri", "channels", "classes")
"""Ids whose values are names: 1e5 is one."""


class ConfigError(UserError, ValueError):
    """A setting, of the command line or of a config file, that names nothing or has no such value."""


def callers() -> tuple[ConfigParser | None, dict[str, Any]]:
    """Return the parser that resolves a config at this moment, and the arguments of ``monai.bundle.run`` above it.

    MONAI hands what a config calls neither of the two, so they are looked for on the call stack. A released bundle looks there
    once more, in a line of its configs (``distribution.assemble``), before it can import anything of its own.
    Without ``run`` on it (a workflow made by hand) the arguments are empty.
    """
    parser, frame = None, inspect.currentframe()
    while isinstance(frame, FrameType):
        owner = frame.f_locals.get("self")
        if parser is None and isinstance(owner, ConfigParser):
            parser = owner
        if frame.f_code is inspect.unwrap(monai_run).__code__:
            return parser, dict(frame.f_locals)
        frame = frame.f_back
    return parser, {}


def overrides_and_files(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return overrides and config files from the arguments of ``monai.bundle.run`` and from its args file."""
    defaults = dict(ConfigParser.load_config_file(arguments["args_file"])) if arguments.get("args_file") else {}
    files = arguments.get("config_file") or defaults.pop("config_file", None)
    own = inspect.signature(inspect.unwrap(monai_run)).parameters
    return {k: v for k, v in {**defaults, **arguments.get("override", {})}.items() if k not in own}, files


def begun(arguments: Mapping[str, Any]) -> set[str]:
    """Return the ids that ``monai.bundle.run`` begins with, by its arguments and its args file."""
    defaults = dict(ConfigParser.load_config_file(arguments["args_file"])) if arguments.get("args_file") else {}
    return {str(arguments.get(name) or defaults.get(name)) for name in ("run_id", "init_id", "final_id")}


def restore(parser: ConfigParser, overrides: Mapping[str, Any], files: Any = ()) -> None:
    """Give values back what they lose on the way: booleans and null in overrides, and each ``#`` of a text, in
    overrides and config files alike, which MONAI turns into ``::``.

    ``--gates false`` reaches MONAI as a text, which Python holds true; so does ``--clip null``, and MONAI drops
    ``--clip None``. PyYAML takes a number with an exponent in a config file (``learning_rate: 1e-3``) for a text, see
    :func:`exponent_numbers`.
    Where the config files have a boolean, ``no`` and ``off`` are words for one too: ``--resume off`` would resume.
    What is resolved already stays: the config is being resolved at this moment.

    Raises:
        ConfigError: a text in place of a boolean that is not one of :data:`SWITCH`; all of them in one text.
    """
    config = ConfigParser.load_config_files(files) if files else {}
    written = dict(_texts(config))
    given = tuple(map(_id, overrides))
    restored = {name: escaped(text) for name, text in written.items()
                if escaped(text) != text and not _within(name, given)}  # fmt: skip
    restored |= {name: number for name, number in exponent_numbers(parser.get()).items() if not _within(name, given)}
    meant = {name: escaped(value) if name in PATHS else _meant(escaped(value)) for name, value in overrides.items()}
    meant |= _switches(meant, ConfigParser(config))
    restored |= {name.replace("#", "::"): value for name, value in meant.items()
                 if name[0] != "+" and (value is None or value != overrides[name])}  # fmt: skip
    if not restored:
        return
    resolved = parser.ref_resolver.resolved_content
    parser.update(restored)
    parser.parse(reset=True)
    parser.ref_resolver.resolved_content = {name: value for name, value in resolved.items() if name not in restored}


def _texts(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a config with its id."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        if isinstance(value, str):
            yield f"{prefix}{key}", value
        yield from _texts(value, f"{prefix}{key}::")


def exponent_numbers(config: Mapping[str, Any]) -> dict[str, float]:
    """Return what a config holds as :data:`EXPONENT`, by id: in lists and dicts too, except names (:data:`WORDS`)."""
    found = {name: text for name, text in _texts(config) if EXPONENT.fullmatch(text)}
    return {name: float(text) for name, text in found.items() if name.partition("::")[0] not in (*WORDS, "_meta_")}


def _id(key: str) -> str:
    """An id of a config as ``--+train#handlers`` or a file writes it."""
    return key.lstrip("+").replace("#", "::")


def _within(name: str, ids: Sequence[str]) -> bool:
    return any(name == other or name.startswith(f"{other}::") for other in ids)


def _meant(value: Any) -> Any:
    """What a plain word means in YAML, or in Python, as which a command line is read."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    return None if value in ("null", "None") else value


def _switches(meant: Mapping[str, Any], written: ConfigParser) -> dict[str, bool]:
    """Those of the overrides that are a text where the config files have a boolean, or refer to one, as booleans."""
    found, faults = {}, []
    for name, value in meant.items():
        if not isinstance(value, str) or value.startswith(("$", "@", "%")):
            continue
        own = written.get(name)
        own = written.get(own[1:]) if isinstance(own, str) and own.startswith("@") else own
        if not isinstance(own, bool):
            continue
        if value.lower() in SWITCH:
            found[name] = SWITCH[value.lower()]
        else:
            faults.append(f"--{name.replace('#', '::')} {value}: expected true or false (or yes, no, on, off)")
    if faults:
        raise ConfigError("Switches that are neither on nor off, nothing was started:\n  " + "\n  ".join(faults))
    return found


def escaped(value: Any) -> Any:
    """A text with a ``#``, or all of them in lists and dicts, as an expression of a config that gives it back unchanged."""
    if isinstance(value, Mapping):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(escaped, value))
    if isinstance(value, str) and "#" in value and value[0] not in "$@%":
        return "$" + repr(value).replace("#", "\\x23").replace("@", "\\x40")
    return value


def judge(overrides: Mapping[str, Any], files: Any) -> None:
    """Refuse each override whose id is neither in the config files nor an argument that a component there takes.

    Raises:
        ConfigError: all of them in one text, each with the nearest name.
    """
    faults = [f"--{fault}" for fault in _misspelt(overrides, ConfigParser.load_config_files(files))]
    if faults:
        raise ConfigError("Misspelt overrides, nothing was started:\n  " + "\n  ".join(faults))


def judge_files(files: Any, free: Collection[str] = ()) -> None:
    """Refuse each id of a config file after the first one that is without effect.

    The files before it do not have it, nor does ``train.yaml`` beside the first, no component takes it, and nothing in
    the whole config refers to it.

    Args:
        files: as MONAI's ``run`` gets them.
        free: ids of the top level that may be there without use.

    Raises:
        ConfigError: all of them in one text, each with its file and the nearest name.
    """
    first, *further = _apart(files)
    train = (
        Path(first).parent / "train.yaml"
    )  # a file of scripts/tasks is made for it, and goes after inference.yaml too
    before = ConfigParser({**(ConfigParser.load_config_file(str(train)) if train.is_file() else {}),
                           **ConfigParser.load_config_file(first)})  # fmt: skip
    whole = str(ConfigParser.load_config_files([first, *further])).replace("#", "::")
    referred = {name.strip(":") for name in re.findall(r"[@%]([\w:]+)", whole)}
    faults = []
    for file in further:
        own = ConfigParser.load_config_file(file)
        new = [name for name in own if _id(name).partition("::")[0] not in free and not _is_used(_id(name), referred)]
        faults += [f"{file}: {fault}" for fault in _misspelt(new, before.get())]
        for name, value in own.items():
            merge_kv(before, name, value)
    if faults:
        raise ConfigError("Misspelt ids in config files, nothing was started:\n  " + "\n  ".join(faults))


def _is_used(name: str, referred: Collection[str]) -> bool:
    """Whether a reference leads to an id, to what it is a part of, or to a part of it."""
    return any(_within(name, [other]) or _within(other, [name]) for other in referred)


def _apart(files: Any) -> list[str]:
    """Config files as MONAI takes them apart."""
    if isinstance(files, str) and not Path(files).is_file() and "," in files:
        return files.split(",")
    return [str(file) for file in ensure_tuple(files)]


def _misspelt(names: Iterable[str], config: dict[str, Any]) -> list[str]:
    """What is wrong with each of the ids that is neither in a config nor an argument that a component there takes."""
    written = ConfigParser(config)
    known = list(_ids(config))
    faults = []
    for key in names:
        name = _id(key)
        if name in known or name in TRACKING or name.startswith("_meta_"):
            continue
        parent, _, leaf = name.rpartition("::")
        arguments = set(TermWeights.KEYS) if parent.startswith("weights::") else _arguments_of(written.get(parent))
        if not parent or arguments is None:
            faults.append(f"{name}: the config has no such id{nearest(name, known)}")
        elif leaf not in arguments and "*" not in arguments:
            faults.append(f"{name}: {parent} takes no argument {leaf!r}{nearest(leaf, arguments)}")
    return faults


def judge_paths(overrides: Mapping[str, Any], typed: Sequence[str] | None = None) -> None:
    """Refuse a path that the command line has turned into something else: python-fire reads each value as Python, so
    that a folder ``2024`` is a number, and what follows a ``#`` in ``runs#2`` a comment, which is lost
    (python-fire#452).

    Args:
        typed: the words of the command line; by default this process's.

    Raises:
        ConfigError: all of them in one text, each with what to write.
    """
    words = sys.argv[1:] if typed is None else list(typed)
    faults = []
    for name in PATHS:
        value = overrides.get(name)
        written = _written(name, words)
        if (
            (value is None and written is None)
            or isinstance(value, Path)
            or (isinstance(value, str) and written in (None, value))
        ):
            continue
        if written is None or written.strip("'\"") != value:
            text = str(value) if written is None else written
            faults.append(f"--{name} {text} is read as {value!r}: write ./{text}, or the whole path")
    if faults:
        raise ConfigError(
            "Paths that the command line reads as something else, nothing was started:\n  " + "\n  ".join(faults)
        )


def _written(name: str, words: Sequence[str]) -> str | None:
    """What last follows ``--name`` on a command line; None where it is not there."""
    found = None
    for word, after in itertools.zip_longest(words, words[1:]):
        option, equals, value = word.partition("=")
        if option.startswith("-") and option.lstrip("-").replace("-", "_") == name:
            found = value if equals else after
    return found


def _ids(config: Any, prefix: str = "") -> Iterator[str]:
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield f"{prefix}{key}"
        yield from _ids(value, f"{prefix}{key}::")


def _arguments_of(component: Any) -> set[str] | None:
    """Return the arguments that a component takes (``*``: any); None where it is not a component."""
    if not ConfigComponent.is_instantiable(component):
        return None
    target: Any = locate(str(ConfigComponent(component, locator=ComponentLocator()).resolve_module_name()))
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # there is no such target, or it is written in C, without a signature
        return {"*"}
    names = {p.name for p in parameters} | {"_disabled_", "_requires_", "_desc_", "_mode_"}
    return names | ({"*"} if any(p.kind is p.VAR_KEYWORD for p in parameters) else set())
