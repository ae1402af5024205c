"""Data sets: registration of user data sets from the config, and the built-in toy data set."""

from .registration import CocoDataset, SemSegDataset, VocDataset, YoloDataset, register_datasets

__all__ = ["CocoDataset", "SemSegDataset", "VocDataset", "YoloDataset", "register_datasets"]
