"""Training views in which an image that cannot be read gives its place to another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .decoding import UnreadableImageError
from .views import SKIPPED, Views, mix

REMEDY = "; replace or remove it"  # the end of messages; who reads the list knows

# Draws in place of one that cannot be read: where all of them fail, so will the next.
TRIES = 100


class Skipped(NamedTuple):
    """An image that was replaced.

    Attributes:
        name: what messages call it.
        reason: why it cannot be read.
    """

    name: str
    reason: str


@dataclass(eq=False)
class ReplacingViews(Views):
    """Views that are asked for by the batch; the next draw replaces an image that cannot be read, or is left out.

    From a data set with places that is a place drawn from the seed, the sample's place in the training stream and the
    number of the try. From a stream it is the next image of the same process's batch, in other crops. Either is a
    function of the seed, the place in the stream, and which images can be read: neither loader processes nor
    interruptions change it.

    Args:
        size: places in the data set; 0: the items come from a stream.
        left_out: places that are not even read.
        images, make, seed, names, labels, cache_side: see `Views`.

    Raises:
        UnreadableImageError: neither an image nor any of its replacements can be read.
    """

    size: int = 0
    left_out: frozenset[int] = frozenset()

    def __getitems__(self, places: Sequence[tuple[Any, int]]) -> list[dict[str, Any]]:
        """Make the samples of a batch; `SKIPPED` is an entry of those that are in place of others."""
        return [self._sample(places, row) for row in range(len(places))]

    def _sample(self, places: Sequence[tuple[Any, int]], row: int) -> dict[str, Any]:
        skipped = []
        for item in self._candidates(places, row):
            try:
                sample: dict[str, Any] = self[item, places[row][1]]
            except UnreadableImageError as error:
                reason = str(error).removeprefix(f"{error.name} ").removesuffix(REMEDY)
                skipped.append(Skipped(error.name, reason))
                continue
            return {**sample, SKIPPED: skipped} if skipped else sample
        first = " ".join(skipped[0]) if skipped else "every image that was drawn is left out"
        raise UnreadableImageError(f"{first}, and none of {TRIES if self.size else len(places)} draws can be used")

    def _candidates(self, places: Sequence[tuple[Any, int]], row: int) -> Iterator[Any]:
        if not self.size:
            yield from (item for item, _ in (*places[row:], *places[:row]))
            return
        item, draw = places[row]
        seed = mix(self.seed, draw)
        drawn = (mix(seed, number) % self.size for number in range(1, TRIES + 1))
        yield from (place for place in (item, *drawn) if place not in self.left_out)
