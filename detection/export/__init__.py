"""Exports trained models to TorchScript files, which run in Python and C++ without mocodet and detectron2."""
