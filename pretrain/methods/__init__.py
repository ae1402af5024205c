"""The ways of keeping keys (figure 2), one file each; they share encoder, loss, augmentation and trainer."""

from .end_to_end import EndToEnd
from .memory_bank import MemoryBank, memory_bank_bytes
from .moco import MomentumContrast

__all__ = ["EndToEnd", "MemoryBank", "MomentumContrast", "memory_bank_bytes"]
