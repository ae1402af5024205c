"""Training views that replace unreadable images with other images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .decoding import UnreadableImageError
from .views import SKIPPED, Views, mix

REMEDY = "; replace or remove it"  # suffix of messages, which is removed in the list of skipped images

# Maximum number of replacements to try for an unreadable image. If all of them fail, further attempts are unlikely to
# succeed.
TRIES = 100


class Skipped(NamedTuple):
    """An image that was replaced.

    Attributes:
        name: name of the image in messages.
        reason: reason why the image cannot be read.
    """

    name: str
    reason: str


@dataclass(eq=False)
class ReplacingViews(Views):
    """Views of a complete batch. An image that cannot be read or is excluded is replaced by another image.

    In an indexed data set, the replacement is sampled with the seed, the position of the sample in the training stream
    and the number of the attempt. In a stream, it is the next image in the same process's batch, with different crops.
    Either way, it depends only on the seed, the position in the stream and the images that can be read, and not on
    loader processes or interruptions.

    Args:
        size: number of indices in the data set, or 0 if the items come from a stream.
        left_out: indices that are never loaded.
        images, make, seed, names, labels, cache_side: see `Views`.

    Raises:
        UnreadableImageError: neither an image nor any of its replacements can be read.
    """

    size: int = 0
    left_out: frozenset[int] = frozenset()

    def __getitems__(self, places: Sequence[tuple[Any, int]]) -> list[dict[str, Any]]:
        """Make the samples of a batch. Samples with replaced images have an additional entry, `SKIPPED`."""
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
        first = " ".join(skipped[0]) if skipped else "all sampled images are excluded"
        raise UnreadableImageError(
            f"{first}, and none of {TRIES if self.size else len(places)} attempted replacements can be used"
        )

    def _candidates(self, places: Sequence[tuple[Any, int]], row: int) -> Iterator[Any]:
        if not self.size:
            yield from (item for item, _ in (*places[row:], *places[:row]))
            return
        item, draw = places[row]
        seed = mix(self.seed, draw)
        drawn = (mix(seed, number) % self.size for number in range(1, TRIES + 1))
        yield from (place for place in (item, *drawn) if place not in self.left_out)
