"""A part of a data set that is held out, to evaluate on: by the images' names alone, on every machine the same."""

import hashlib
from dataclasses import dataclass

PARTS = ("train", "test")


@dataclass(frozen=True)
class HoldOut:
    """Which images are held out.

    Attributes:
        share: how large a part of the images, about; above 0 and below 1.
        seed: for another choice.
    """

    share: float
    seed: int = 0

    def check(self, split: str) -> None:
        """Check the share, and that a split is the part to train on or the one held out.

        Raises:
            ValueError: they are not.
        """
        if not 0 < self.share < 1:
            raise ValueError(f"HOLD_OUT is the part of the images that are held out, between 0 and 1, got {self.share}")
        if split not in PARTS:
            raise ValueError(f"with HOLD_OUT SPLIT is train, or test for the images held out; got {split!r}")

    def takes(self, name: str, split: str) -> bool:
        """Tell whether an image is in a part.

        A hash of seed and name decides, so an image stays where it is when others are added.
        """
        digest = hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogateescape")).digest()
        number = int.from_bytes(digest[:8], "big")
        return (number < self.share * 2**64) == (split == "test")
