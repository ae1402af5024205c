"""Downloads ``MODEL.WEIGHTS`` from a URL, with one copy for all processes of a machine.

detectron2's own cache identifies files by the path of the URL, without the host, and never checks for new versions.
"""

from pathlib import Path

from detectron2.utils import comm

from mocodet.common.url_cache import fetch

HEURISTICS = "matching_heuristics=True"  # detectron2's option, written as the query of a URL


def is_address(weights: str) -> bool:
    """Return whether ``MODEL.WEIGHTS`` is an HTTP or HTTPS URL."""
    return weights.startswith(("http://", "https://"))


def local_copy(weights: str) -> str:
    """Return the local copy of the file at a URL, with detectron2's option if the query contains it; see `fetch`.

    The rest of the query is part of the URL. All processes must call this function, and the first process of each
    machine downloads the file.

    Raises:
        ValueError, OSError: see `fetch`, in every process.
    """
    address, _, query = weights.partition("?")
    parts = query.split("&") if query else []
    asked = "&".join(part for part in parts if part != HEURISTICS)
    path = _in_first_process(f"{address}?{asked}" if asked else address)
    return f"{path}?{HEURISTICS}" if HEURISTICS in parts else str(path)


def _in_first_process(url: str) -> Path:
    first = comm.get_rank() - comm.get_local_rank()
    outcome: Path | Exception | None = None
    if comm.get_rank() == first:
        try:
            outcome = fetch(url)
        except (OSError, ValueError) as error:
            outcome = error  # raised by all processes
    mine = comm.all_gather(outcome)[first]
    if isinstance(mine, Exception):
        raise mine
    return mine
