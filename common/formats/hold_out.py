"""A held-out part of a data set for evaluation, chosen only by image name and therefore the same on every machine."""

import hashlib
from dataclasses import dataclass

PARTS = ("train", "test")


@dataclass(frozen=True)
class HoldOut:
    """Specifies which images are held out.

    Attributes:
        share: approximate fraction of images to hold out, between 0 and 1 (both exclusive).
        seed: seed of the selection; another seed holds out other images. With text, the selection is independent of
            those with any HOLD_OUT_SEED.
    """

    share: float
    seed: int | str = 0

    def takes(self, name: str, split: str) -> bool:
        """Return whether an image belongs to a split.

        The decision is based on a hash of the seed and the name, so adding images does not move others to another
        split.
        """
        digest = hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogateescape")).digest()
        number = int.from_bytes(digest[:8], "big")
        return (number < self.share * 2**64) == (split == "test")


def read_hold_out(split: str, share: float, seed: int) -> HoldOut | None:
    """Return how a data set is divided according to the keys SPLIT, HOLD_OUT and HOLD_OUT_SEED of its entry.

    Returns:
        None if the data set is not divided, which a share of 0 means.

    Raises:
        ValueError: the share is out of range, the split is neither train nor test, or the seed has no effect.
    """
    if not share:
        if seed:
            raise ValueError("HOLD_OUT_SEED has no effect without HOLD_OUT; set HOLD_OUT or remove HOLD_OUT_SEED")
        return None
    if not 0 < share < 1:
        raise ValueError(f"HOLD_OUT, the fraction of images to hold out, must be between 0 and 1; got {share}")
    if split not in PARTS:
        raise ValueError(f"with HOLD_OUT, SPLIT must be train, or test for the held-out images; got {split!r}")
    return HoldOut(share, seed)
