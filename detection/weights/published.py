"""Weights by name: ``moco://`` in ``MODEL.WEIGHTS`` of any detectron2 config.

* ``moco://v1_200ep``, ``moco://v2_200ep`` and ``moco://v2_800ep`` are the weights that the authors of MoCo published:
  downloaded, checked, converted, verified and cached on first use (docs/weights.md).
* ``moco://path/to/checkpoint.pth.tar`` (or ``moco:///an/absolute/path``) is a file that `convert_file` reads:
  converted, verified and cached by its content, so that a file that has changed is converted anew.

`register` makes detectron2's file manager hand out the converted file for such a name, so that every checkpointer built
on it, detectron2's own too, takes it. The cache is where detectron2 keeps what it downloads: ``$FVCORE_CACHE`` or
``~/.torch/iopath_cache``, in it the folder ``mocodet``.
"""

import json
import logging
import os
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathHandler, PathManager

from mocodet.common.cache_folder import cache_folder
from mocodet.common.download import DownloadError, download, md5_of
from mocodet.common.files import write_json
from mocodet.common.locks import exclusive

from .convert import convert_file
from .settings import required_config

SCHEME = "moco"
PREFIX = f"{SCHEME}://"

# A copy of the published files elsewhere: its address up to "/moco_v1_200ep/...".
MIRROR_VARIABLE = "MOCODET_WEIGHTS_URL"
PUBLISHED_URL = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints"

# To be raised with every change of what `convert_file` writes for the same checkpoint, or of the settings: what older
# versions put into the cache is then made anew.
FORMAT = 2

LICENCE = "CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/): not for commercial use"

# A child of detectron2's logger: in a project that is not ours no other is set up.
logger = logging.getLogger(f"detectron2.{__name__}")


# Each file of the original code's README, and how its MD5 sum begins.
PUBLISHED = {"v1_200ep": "b251726a", "v2_200ep": "59fd9945", "v2_800ep": "a04e12f8"}


def register() -> None:
    """Make detectron2's file manager know ``moco://``."""
    # What has this scheme keeps both slashes of moco:///absolute/path when detectron2 takes it apart and puts it
    # together again; urllib does so for the schemes of this list.
    if SCHEME not in urllib.parse.uses_netloc:
        urllib.parse.uses_netloc.append(SCHEME)
    PathManager.register_handler(WeightsHandler(), allow_override=True)


def local_weights(name: str) -> Path:
    """Return the converted file (``.pkl``) of a ``moco://`` name; make it where it is not cached.

    The settings that a detectron2 model needs to start from it are logged. Processes that want the same file wait for
    the one that makes it. The state of torch's random generator stays as it is.

    Args:
        name: ``moco://`` and one of `PUBLISHED` or the path of an existing file; detectron2's option
            ``?matching_heuristics=True``, which holds for converted files in any case, may follow.

    Raises:
        ValueError: no such name; the file is damaged or holds no encoder that can be converted.
        OSError: the file cannot be downloaded (`DownloadError`), or the cache cannot be written.
    """
    wanted, _, options = name.removeprefix(PREFIX).partition("?")
    if options not in ("", "matching_heuristics=True"):
        raise ValueError(f"{name}: unknown options {options!r}; known is 'matching_heuristics=True'")
    if wanted in PUBLISHED:
        path, settings = _cached(f"{wanted}-{PUBLISHED[wanted]}", lambda: _fetch(wanted))
    else:
        source = Path(wanted).expanduser()
        if not source.is_file():
            raise ValueError(
                f"{name}: neither a file {source} exists, nor are there published weights of that name; the names are"
                f" {', '.join(PREFIX + known for known in PUBLISHED)}"
            )
        if source.suffix == ".pkl":
            raise ValueError(f"{name}: a .pkl is converted already; name it without {PREFIX}")
        path, settings = _cached(f"{source.name.partition('.')[0]}-{md5_of(source)}", lambda: source)
    if comm.is_main_process():
        needs = ", ".join(f"{key} {value}" for key, value in settings.items())
        logger.info(f"{name} is {path}. A model that starts from it needs {needs}")
    return path


class WeightsHandler(PathHandler):
    """Hands out the converted file of a ``moco://`` name; see `local_weights`."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        # What is cached was checked by its sum: with `force`, too, there is nothing better to be had.
        self._check_kwargs(kwargs)
        return str(local_weights(path))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO:
        self._check_kwargs(kwargs)
        if mode != "rb":
            raise ValueError(f"{path} can be opened for reading bytes only (mode 'rb'), got mode {mode!r}")
        return local_weights(path).open(mode, buffering)


def _cached(name: str, find_source: Callable[[], Path]) -> tuple[Path, dict[str, Any]]:
    """Return a converted file in the cache, made there if need be, and what a config must set to start from it."""
    path = cache_folder() / f"{name}.pkl"
    settings = _recorded_settings(path)
    if settings is None:
        with exclusive(path):
            settings = _recorded_settings(path)  # another process may have made it while this one waited
            if settings is None:
                settings = _convert(find_source(), path)
    return path, settings


def _recorded_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings of a converted file as this version writes it; None if it was cut or changed since."""
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        is_whole = record["format"] == FORMAT and record["md5"] == md5_of(path)
        return record["settings"] if is_whole else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _convert(source: Path, path: Path) -> dict[str, Any]:
    """Convert ``source`` to ``path``; the record comes last, so that there is none of a file that is not whole."""
    record = path.with_suffix(".json")
    record.unlink(missing_ok=True)
    with torch.random.fork_rng(devices=[]):  # a run that converts and one that finds it done are to be the same
        encoder = convert_file(source, path).encoder
    logger.info("; ".join([f"Converted the {encoder.kind} ({encoder.arch}) in {source}", *encoder.notes]))
    settings = required_config(encoder)
    write_json(record, {"format": FORMAT, "md5": md5_of(path), "settings": settings})
    return settings


def _fetch(name: str) -> Path:
    """Bring the published file into the cache, or find it there."""
    base = os.environ.get(MIRROR_VARIABLE) or PUBLISHED_URL
    path = cache_folder() / f"moco_{name}_pretrain.pth.tar"
    url = f"{base.rstrip('/')}/moco_{name}/{path.name}"
    is_new = not path.is_file()
    if is_new:
        logger.info(f"Downloading {url} to {path}")
    try:
        download(url, path, md5=PUBLISHED[name])
    except DownloadError as error:
        raise DownloadError(f"{error}; {MIRROR_VARIABLE} may name another address than {base}") from error
    if is_new:
        logger.warning(f"{path.name} was published with the MoCo paper under {LICENCE}.")
    return path
