"""``MODEL.WEIGHTS`` from a web address: one copy for all processes of a machine.

detectron2's own cache identifies files by the path of their address, without the host, and never checks for new ones.
"""

from pathlib import Path

from detectron2.utils import comm

from mocodet.common.url_cache import fetch

HEURISTICS = "matching_heuristics=True"  # detectron2's option, which has the place of an address's query


def is_address(weights: str) -> bool:
    """Tell whether ``MODEL.WEIGHTS`` is an http or https address."""
    return weights.startswith(("http://", "https://"))


def local_copy(weights: str) -> str:
    """Return the file at an address, with detectron2's option if it is in the query; see `fetch`.

    The rest of the query belongs to the address. All processes must call this; the first of each machine downloads.

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
