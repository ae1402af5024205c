"""Data sets: registration of the user's own from the config, and the built-in toy set."""

from .registration import CocoDataset, SemSegDataset, VocDataset, YoloDataset, register_datasets

__all__ = ["CocoDataset", "SemSegDataset", "VocDataset", "YoloDataset", "register_datasets"]
