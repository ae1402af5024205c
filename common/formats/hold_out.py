"""A held-out part of a data set for evaluation, chosen only by image name and therefore the same on every machine."""

import hashlib
from dataclasses import dataclass

PARTS = ("train", "test")


@dataclass(frozen=True)
class HoldOut:
    """Specifies which images are held out.

    Attributes:
        share: approximate fraction of images to hold out, between 0 and 1 (both exclusive).
        seed: seed of the selection; another seed holds out other images.
    """

    share: float
    seed: int = 0

    def check(self, split: str) -> None:
        """Check that the share is valid, and that a split is train or test.

        Raises:
            ValueError: the share or the split is invalid.
        """
        if not 0 < self.share < 1:
            raise ValueError(f"HOLD_OUT, the fraction of images to hold out, must be between 0 and 1; got {self.share}")
        if split not in PARTS:
            raise ValueError(f"with HOLD_OUT, SPLIT must be train, or test for the held-out images; got {split!r}")

    def takes(self, name: str, split: str) -> bool:
        """Return whether an image belongs to a split.

        The decision is based on a hash of the seed and the name, so adding images does not move others to another
        split.
        """
        digest = hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogateescape")).digest()
        number = int.from_bytes(digest[:8], "big")
        return (number < self.share * 2**64) == (split == "test")
