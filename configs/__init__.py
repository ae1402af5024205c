"""Locates the YAML configs of mocodet, for example with `mocodet.configs.path("coco_R_50_FPN_2x_moco.yaml")`."""

from collections.abc import Iterable
from pathlib import Path

from mocodet.common.text import closest

ROOT = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all configs, relative to ``configs/`` and in alphabetical order."""
    return sorted(file.relative_to(ROOT).as_posix() for file in ROOT.rglob("*.yaml"))


def path(name: str) -> Path:
    """Return the path of the config ``name``, which is relative to ``configs/`` (for example ``pretrain/x.yaml``).

    Raises:
        FileNotFoundError: the config does not exist; the message suggests a similar name.
    """
    found = ROOT / name
    if not found.is_file():
        raise FileNotFoundError(f"no config named {name!r}{_meant(name, names()) or f'; the configs are in {ROOT}'}")
    return found


def locate(name: str) -> Path:
    """Return the config file that a user specified, either as a path or as the name of one of mocodet's configs.

    Raises:
        FileNotFoundError: neither exists; the message suggests a similar name, also from the folder of the path.
    """
    given, packaged = Path(name), name.removeprefix("configs/")
    if given.is_file():
        return given
    if (ROOT / packaged).is_file():
        return ROOT / packaged
    meant = _meant(name, map(str, given.parent.glob("*.y*ml"))) or _meant(packaged, names())
    raise FileNotFoundError(
        f"there is no config {name!r}{meant or f'; expected the path of a YAML file, or a config name from {ROOT}'}"
    )


def _meant(name: str, files: Iterable[str]) -> str:
    """Return the end of a message that suggests one of the files; ``name`` may omit their folder."""
    # The names are compared without the suffix, which all of them share.
    known = {(file if "/" in name else Path(file).name).rpartition(".")[0]: file for file in files}
    found = closest(name.removesuffix(".yaml"), known)
    return f"; did you mean {known[found]}?" if found else ""
