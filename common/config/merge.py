"""Merging of config files and KEY VALUE pairs over the defaults, with each value converted to its key's type."""

import ast
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from mocodet import configs
from mocodet.common.text import did_you_mean, first_few

from .bases import read_settings
from .pairs import read_pairs
from .yaml_file import PARENTHESES

OVERRIDES = "the overrides"
WIDTH = 60  # maximum number of characters of a value in a message
MEANT = 3  # maximum number of keys that a message suggests

# Example values for keys whose defaults do not show the expected form.
EXAMPLES = {
    "DATASETS.TRAIN": ("voc_2007_trainval",),
    "DATASETS.TEST": ("voc_2007_test",),
    "KNN.DATASET": [{"KIND": "coco", "JSON": "mine.json", "IMAGES": "images"}],
    "MOCO.DATASETS": [{"NAME": "mine", "KIND": "coco", "JSON": "mine.json", "IMAGES": "images"}],
}


def merge_config(cfg: CfgNode, config_file: str, opts: Sequence[str]) -> Path:
    """Merge a config file and KEY VALUE pairs into ``cfg``; return the file's path.

    As in yacs, text may contain a Python literal, and a list is accepted for a tuple. Lists may also be written in YAML
    syntax. An integer is accepted for a float, and 9e4 for 90000. ``_BASE_`` may refer to one of mocodet's own configs
    by name.

    Args:
        cfg: all keys with their defaults; modified in place.
        config_file: a path, or the name of one of mocodet's own configs.
        opts: ``KEY, VALUE, KEY, VALUE, ...``.

    Raises:
        OSError: the config does not exist or cannot be read.
        ValueError: a file is not a YAML config, a key is unknown, a value has the wrong type, or a KEY has no VALUE.
            The message contains the file and the line, or states that the value is an override.
    """
    path, defaults = configs.locate(config_file), cfg.clone()
    settings = read_settings(path)
    for key, value in _flat(settings.content, cfg):
        _set(cfg, key, value, defaults, settings.places.get(key, str(path)))
    for key, value in read_pairs(opts):
        _set(cfg, key, value, defaults, OVERRIDES)
    return path


def _flat(content: Mapping[str, Any], cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield full keys and values; a mapping counts as a section only if ``cfg`` has a section of that name."""
    for name, value in content.items():
        section = cfg.get(name)
        if isinstance(value, Mapping) and isinstance(section, CfgNode):
            yield from _flat(value, section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _set(cfg: CfgNode, key: str, value: Any, defaults: CfgNode, place: str) -> None:
    """Set a key to a value, converted to the type of its default.

    Raises:
        ValueError: the key does not exist, or the value has the wrong type; the message begins with ``place``.
    """
    section, _, name = key.rpartition(".")
    node, known = _section(cfg, section), _section(defaults, section)
    if node is None or known is None or name not in known:
        raise ValueError(f"{place}: unknown key {key}{_meant(defaults, key)}")
    default = known[name]
    if isinstance(default, CfgNode):
        example = next(iter(_keys(default, f"{key}.")), f"{key}.KEY")
        raise ValueError(f"{place}: {key} is a section; set one of its keys instead, such as {example}")
    if key == "VERSION" and value != default:
        raise ValueError(f"{place}: VERSION is {value}; expected {default}, as in detectron2 0.6; update the config")
    node[name] = _fitting(key, value, default, place)


def _section(cfg: CfgNode, name: str) -> CfgNode | None:
    """Return a section by its full name, where ``""`` is the complete config; None if it does not exist."""
    node = cfg
    for part in name.split(".") if name else ():
        node = node.get(part)
        if not isinstance(node, CfgNode):
            return None
    return node


def _fitting(key: str, value: Any, default: Any, place: str) -> Any:
    """Convert a value to the type of its key's default; see `_set`."""
    found = _literal(value, wanted=type(default))
    if default is None:
        fits, expected = not isinstance(found, Mapping), "a value, not a mapping"
    elif isinstance(default, bool):
        fits, expected = type(found) is bool, "True or False"
    elif isinstance(default, int):
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        fits, expected = type(found) is int, f"an integer, such as {default}"
    elif isinstance(default, float):
        fits, expected = _is_number(found), f"a number, such as {default:g}"
        found = float(found) if fits else found
    elif isinstance(default, str):
        fits, expected = isinstance(found, str), f"text in quotes, such as {default!r}"
    else:
        found = [found] if isinstance(found, Mapping) else found  # a single data set entry is a list of one entry
        fits, expected = _is_list_like(found, default), f"a list, such as {_example(key, default, place)}"
        found = type(default)(deepcopy(found)) if fits else found
    if not fits:
        shown = repr(found) if len(repr(found)) <= WIDTH else f"{found!r:.{WIDTH}}…"
        raise ValueError(f"{place}: {key} is {shown}; expected {expected}{_hint(found, default, place)}")
    return found


def _literal(value: Any, wanted: type) -> Any:
    """Convert text to the Python literal that it represents, if any; if text is ``wanted``, only strip extra quotes."""
    if not isinstance(value, str):
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for example, about a backslash in a path
            meant = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return flow(value) if issubclass(wanted, (list, tuple)) and value[:1] in ("[", "{") else value
    return value if wanted is str and not isinstance(meant, str) else meant


def flow(text: str) -> Any:
    """Convert text in YAML's list or mapping syntax, where quotes are optional; return other text unchanged."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that a float can represent."""
    return (type(value) is int and abs(value) <= sys.float_info.max) or (type(value) is float and value == value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_like(found: Any, default: Sequence[Any]) -> bool:
    """Return whether a value is a list whose innermost values are all numbers or text, if the default's are."""
    if not isinstance(found, (list, tuple)):
        return False
    known = list(_innermost(default))
    for is_one in (_is_number, _is_text):
        if known and all(map(is_one, known)):
            return all(map(is_one, _innermost(found)))
    return True


def _innermost(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _innermost(value)
        else:
            yield value


def _example(key: str, default: Sequence[Any], place: str) -> str:
    """Format a list for a key in the form that users write: quoted on a command line, in brackets in YAML."""
    example = EXAMPLES.get(key, default)
    if place == OVERRIDES:
        return f'{key} "{example}"'
    return str(list(example))


def _hint(found: Any, default: Any, place: str) -> str:
    """Return the most common cause of a value that has the wrong type."""
    if isinstance(default, (list, tuple)) and isinstance(found, str) and found[:1] in ("(", "[", "{"):
        if place == OVERRIDES:
            return " with each text in quotes"
        if found[:1] == "(":
            return f": {PARENTHESES}"
    return ""


def _meant(cfg: CfgNode, key: str) -> str:
    """Return the end of a message about an unknown key: keys that end with it, a similar key, or its section."""
    known = _keys(cfg)
    if complete := [name for name in known if name.endswith(f".{key.upper()}")]:
        return f"; did you mean {' or '.join(complete[:MEANT])}?"
    if close := did_you_mean(key, known):
        return close
    name = key.rpartition(".")[0]
    if name and (section := _section(cfg, name)) is not None:
        return f"; {name} contains {first_few(list(section), 20)}"
    return f"; expected one of the sections {first_few([name for name in cfg if isinstance(cfg[name], CfgNode)], 20)}"


def _keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    """Return the full names of all keys in a config."""
    found = []
    for name, value in cfg.items():
        found += _keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [f"{prefix}{name}"]
    return found
