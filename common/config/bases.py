"""Config files and the files that they are based on, specified with ``_BASE_`` as in detectron2."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mocodet import configs
from mocodet.common.text import did_you_mean

from .yaml_file import read_yaml

BASE = "_BASE_"
DEEPEST = 50  # maximum number of files in a chain of bases


@dataclass(frozen=True)
class Settings:
    """The settings in a config file and its bases.

    Attributes:
        content: sections and keys, nested as in the file.
        places: file and line in which each key, such as ``SOLVER.STEPS``, is set.
    """

    content: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)


def read_settings(path: Path) -> Settings:
    """Read a config file over its bases; a later base takes precedence over an earlier one.

    A base is searched for next to the file that specifies it, then among mocodet's own configs. Bases are never
    downloaded.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not a YAML mapping of names, specifies a base that does not exist, or is based on itself.
    """
    return _read(path, (), {})


def _read(path: Path, below: tuple[Path, ...], known: dict[Path, Settings]) -> Settings:
    """Read a file that the files in ``below`` are based on, each on the next; ``known`` contains files read before."""
    place = path.resolve()
    if place in below:
        chain = " -> ".join(file.name for file in (*below[below.index(place) :], place))
        raise ValueError(f"{path}: {BASE} leads back to the file itself ({chain}); remove {BASE} from one of the files")
    if len(below) > DEEPEST:
        raise ValueError(f"{path}: the chain of {BASE} has more than {DEEPEST} files; merge some of the files")
    if place not in known:
        own = _read_one(path)
        names = own.content.pop(BASE, [])
        content: dict[str, Any] = {}
        places: dict[str, str] = {}
        for name in names if isinstance(names, list) else [names]:
            base = _read(_find(name, path, own.places[BASE]), (*below, place), known)
            content, places = _over(content, base.content), places | base.places
        known[place] = Settings(_over(content, own.content), places | own.places)
    return known[place]


def _read_one(path: Path) -> Settings:
    content, lines = read_yaml(path)
    if content is None:
        raise ValueError(f"{path} is empty; expected a YAML config, KEY: VALUE")
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}; expected a YAML config, KEY: VALUE")
    places = {key: f"{path}, line {line}" for key, line in lines.items()}
    _check_names(content, str(path), places)
    return Settings(content, places)


def _check_names(section: Mapping[Any, Any], where: str, places: Mapping[str, str], prefix: str = "") -> None:
    for name, value in section.items():
        if not isinstance(name, str):
            told = f"expected the name of a key, such as SOLVER; got {name!r}"
            raise ValueError(f"{places.get(prefix.rstrip('.'), where)}: {told}")
        if "." in name:
            told = "{} is a key in a section; write  {}:  and, indented below it,  {}:"
            told = told.format(name, *name.split(".", 1))
            raise ValueError(f"{places.get(f'{prefix}{name}', where)}: {told}")
        if isinstance(value, dict):
            _check_names(value, where, places, f"{prefix}{name}.")


def _find(name: object, asker: Path, where: str) -> Path:
    """Return the file that ``_BASE_`` in ``asker`` refers to."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: {BASE} is {name!r}; expected the name of a config file, or a list of names")
    if "://" in name:
        raise ValueError(f"{where}: {BASE} {name} is a URL, but configs are not downloaded; specify a file")
    beside = asker.parent / os.path.expanduser(name)  # noqa: PTH111 (which leaves an unknown user's path unchanged)
    try:
        return beside if beside.is_file() else configs.path(name.removeprefix("configs/"))
    except OSError as error:  # the name may be too long
        near = [file.name for file in asker.parent.glob("*.y*ml") if file != asker]
        meant = did_you_mean(name, [*near, *configs.names()])
        raise ValueError(
            f"{where}: {BASE} is {name}, but neither {beside} nor a mocodet config of that name exists{meant}"
        ) from error


def _over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in top.items():
        below = merged.get(name)
        merged[name] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
