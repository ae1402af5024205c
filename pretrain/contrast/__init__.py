"""The ways of keeping keys (figure 2), one file each; they share encoder, loss, augmentation and trainer."""

from .moco import MomentumContrast

__all__ = ["MomentumContrast"]
