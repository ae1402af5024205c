"""A held-out part of a data set, for evaluation: chosen by image names alone, so the same on every machine."""

import hashlib
from dataclasses import dataclass

PARTS = ("train", "test")


@dataclass(frozen=True)
class HoldOut:
    """Which images are held out.

    Attributes:
        share: approximate share of the images; above 0 and below 1.
        seed: another seed gives another choice.
    """

    share: float
    seed: int = 0

    def check(self, split: str) -> None:
        """Check the share, and that a split is train or test.

        Raises:
            ValueError: one of them is invalid.
        """
        if not 0 < self.share < 1:
            raise ValueError(f"HOLD_OUT is the part of the images that are held out, between 0 and 1, got {self.share}")
        if split not in PARTS:
            raise ValueError(f"with HOLD_OUT SPLIT is train, or test for the images held out; got {split!r}")

    def takes(self, name: str, split: str) -> bool:
        """Tell whether an image is in a part.

        A hash of seed and name decides, so an image stays in its part when others are added.
        """
        digest = hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogateescape")).digest()
        number = int.from_bytes(digest[:8], "big")
        return (number < self.share * 2**64) == (split == "test")
