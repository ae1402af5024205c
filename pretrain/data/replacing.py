"""Training views that replace an unreadable image by another one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .decoding import UnreadableImageError
from .views import SKIPPED, Views, mix

REMEDY = "; replace or remove it"  # the end of messages, which the list of skipped images omits

# Draws to replace an unreadable image; if all of them fail, more would fail too.
TRIES = 100


class Skipped(NamedTuple):
    """An image that was replaced.

    Attributes:
        name: its name in messages.
        reason: why it cannot be read.
    """

    name: str
    reason: str


@dataclass(eq=False)
class ReplacingViews(Views):
    """Views of a whole batch at a time; another image replaces one that cannot be read or is left out.

    In a data set with places, the replacement is drawn with the seed, the sample's place in the training stream and the
    number of the attempt. In a stream, it is the next image of the same process's batch, in other crops. Either depends
    only on the seed, the place in the stream, and which images can be read: neither loader processes nor interruptions
    change it.

    Args:
        size: places in the data set; 0: the items come from a stream.
        left_out: places that are never read.
        images, make, seed, names, labels, cache_side: see `Views`.

    Raises:
        UnreadableImageError: neither an image nor any of its replacements can be read.
    """

    size: int = 0
    left_out: frozenset[int] = frozenset()

    def __getitems__(self, places: Sequence[tuple[Any, int]]) -> list[dict[str, Any]]:
        """Make the samples of a batch; replacements have an entry `SKIPPED`."""
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
