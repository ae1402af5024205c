"""Data sets: registration of the user's own from the config, checks before a run starts, and the built-in toy set."""

from .checks import check_datasets
from .registration import CocoDataset, SemSegDataset, VocDataset, register_datasets

__all__ = ["CocoDataset", "SemSegDataset", "VocDataset", "check_datasets", "register_datasets"]
