"""The YAML files of mocodet, found as package data: `mocodet.configs.path("coco_R_50_FPN_2x_moco.yaml")`."""

from pathlib import Path

ROOT = Path(__file__).parent


def path(name: str) -> Path:
    """Return the path of the config ``name``, given relative to ``configs/`` (for example ``pretrain/x.yaml``).

    Raises:
        FileNotFoundError: no such config; the message lists those that exist.
    """
    found = ROOT / name
    if not found.is_file():
        known = ", ".join(sorted(str(file.relative_to(ROOT)) for file in ROOT.rglob("*.yaml")))
        raise FileNotFoundError(f"no config named {name!r}; there are: {known}")
    return found


def locate(name: str) -> Path:
    """Return the config file that a user means: a path as given, else one of mocodet's own by its name.

    Raises:
        FileNotFoundError: neither exists.
    """
    return Path(name) if Path(name).is_file() else path(name.removeprefix("configs/"))
