"""Weights by name: ``moco://`` in ``MODEL.WEIGHTS`` of any detectron2 config.

* ``moco://v1_200ep``, ``moco://v2_200ep`` and ``moco://v2_800ep`` are the weights published by the authors of MoCo.
  They are downloaded, checked, converted, verified and cached on first use (docs/weights.md).
* ``moco://path/to/checkpoint.pth.tar`` (or ``moco:///an/absolute/path``) is a file that `convert_file` can read. It is
  converted, verified and cached by its content, so a modified file is converted again.

`register` makes detectron2's file manager return the converted file for such a name. Every checkpointer that uses the
file manager, including detectron2's own, therefore accepts the name. The cache is the folder ``mocodet`` in
detectron2's download folder, which is ``$FVCORE_CACHE`` or ``~/.torch/iopath_cache``.
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

# URL of a mirror of the published files, up to "/moco_v1_200ep/...".
MIRROR_VARIABLE = "MOCODET_WEIGHTS_URL"
PUBLISHED_URL = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints"

# Increase this number whenever the output of `convert_file` for the same checkpoint, or the settings, change. Files in
# the cache from older versions are then converted again.
FORMAT = 2

LICENCE = "CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/): not for commercial use"

# A child of detectron2's logger, because other projects set up no other logger.
logger = logging.getLogger(f"detectron2.{__name__}")


# The files in the original code's README, with the beginning of their MD5 sums.
PUBLISHED = {"v1_200ep": "b251726a", "v2_200ep": "59fd9945", "v2_800ep": "a04e12f8"}


def register() -> None:
    """Register ``moco://`` with detectron2's file manager."""
    # detectron2 splits URLs and joins them again. urllib then keeps both slashes of moco:///absolute/path only for the
    # schemes in this list.
    if SCHEME not in urllib.parse.uses_netloc:
        urllib.parse.uses_netloc.append(SCHEME)
    PathManager.register_handler(WeightsHandler(), allow_override=True)


def local_weights(name: str) -> Path:
    """Return the converted file (``.pkl``) for a ``moco://`` name, which is converted unless it is cached.

    The settings that a detectron2 model requires to start from it are logged. Processes that request the same file wait
    for the process that converts it. The state of torch's random generator does not change.

    Args:
        name: ``moco://`` followed by one of `PUBLISHED` or by the path of an existing file. detectron2's option
            ``?matching_heuristics=True`` may follow, but it is always set in converted files.

    Raises:
        ValueError: the name is unknown, or the file is damaged or contains no encoder that can be converted.
        OSError: the file cannot be downloaded (`DownloadError`), or the cache cannot be written.
    """
    wanted, _, options = name.removeprefix(PREFIX).partition("?")
    if options not in ("", "matching_heuristics=True"):
        raise ValueError(
            f"{name}: unknown options {options!r}; the only supported option is 'matching_heuristics=True'"
        )
    if wanted in PUBLISHED:
        path, settings = _cached(f"{wanted}-{PUBLISHED[wanted]}", lambda: _fetch(wanted))
    else:
        source = Path(wanted).expanduser()
        if not source.is_file():
            raise ValueError(
                f"{name}: {source} is neither an existing file nor the name of published weights, which are"
                f" {', '.join(PREFIX + known for known in PUBLISHED)}"
            )
        if source.suffix == ".pkl":
            raise ValueError(f"{name}: a .pkl file is already converted; specify its path without {PREFIX}")
        path, settings = _cached(f"{source.name.partition('.')[0]}-{md5_of(source)}", lambda: source)
    if comm.is_main_process():
        needs = ", ".join(f"{key} {value}" for key, value in settings.items())
        logger.info(f"{name} is {path}. A model that starts from it requires {needs}")
    return path


class WeightsHandler(PathHandler):
    """Returns the converted file for a ``moco://`` name; see `local_weights`."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        # The cached file was verified by its checksum, so `force` cannot provide a better one.
        self._check_kwargs(kwargs)
        return str(local_weights(path))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO:
        self._check_kwargs(kwargs)
        if mode != "rb":
            raise ValueError(f"{path} can only be opened for reading bytes (mode 'rb'), got mode {mode!r}")
        return local_weights(path).open(mode, buffering)


def _cached(name: str, find_source: Callable[[], Path]) -> tuple[Path, dict[str, Any]]:
    """Return a converted file in the cache, created if necessary, and the settings that a config requires for it."""
    path = cache_folder() / f"{name}.pkl"
    settings = _recorded_settings(path)
    if settings is None:
        with exclusive(path):
            settings = _recorded_settings(path)  # another process may have created it while this one waited
            if settings is None:
                settings = _convert(find_source(), path)
    return path, settings


def _recorded_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings recorded for a converted file, or None if it is outdated, truncated or modified."""
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        is_whole = record["format"] == FORMAT and record["md5"] == md5_of(path)
        return record["settings"] if is_whole else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _convert(source: Path, path: Path) -> dict[str, Any]:
    """Convert ``source`` to ``path``. The record is written last, so an incomplete file has no record."""
    record = path.with_suffix(".json")
    record.unlink(missing_ok=True)
    # A run must not depend on whether it converts the file or finds it in the cache.
    with torch.random.fork_rng(devices=[]):
        encoder = convert_file(source, path).encoder
    logger.info("; ".join([f"Converted the {encoder.kind} ({encoder.arch}) in {source}", *encoder.notes]))
    settings = required_config(encoder)
    write_json(record, {"format": FORMAT, "md5": md5_of(path), "settings": settings})
    return settings


def _fetch(name: str) -> Path:
    """Download the published file into the cache unless it is already there, and return its path."""
    base = os.environ.get(MIRROR_VARIABLE) or PUBLISHED_URL
    path = cache_folder() / f"moco_{name}_pretrain.pth.tar"
    url = f"{base.rstrip('/')}/moco_{name}/{path.name}"
    is_new = not path.is_file()
    if is_new:
        logger.info(f"Downloading {url} to {path}")
    try:
        download(url, path, md5=PUBLISHED[name])
    except DownloadError as error:
        raise DownloadError(f"{error}; set {MIRROR_VARIABLE} to use a URL other than {base}") from error
    if is_new:
        logger.warning(f"{path.name} was published with the MoCo paper under {LICENCE}.")
    return path
