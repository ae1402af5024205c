"""``MODEL.WEIGHTS`` by an address of the web: one copy for all processes of a machine, the same for each of them.

detectron2's own cache knows files by the path of their address, without its host, and never asks for them again.
"""

from pathlib import Path

from detectron2.utils import comm

from mocodet.common.url_cache import fetch

HEURISTICS = "matching_heuristics=True"  # detectron2's option, which stands where an address has its query


def is_address(weights: str) -> bool:
    """Tell whether ``MODEL.WEIGHTS`` is an address of http or https."""
    return weights.startswith(("http://", "https://"))


def local_copy(weights: str) -> str:
    """Return the file behind an address, with detectron2's option if that stands in its query; see `fetch`.

    The other parts of a query belong to the address. All processes must call: the first of each machine asks.

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
            outcome = error  # for all of them to raise
    mine = comm.all_gather(outcome)[first]
    if isinstance(mine, Exception):
        raise mine
    return mine
