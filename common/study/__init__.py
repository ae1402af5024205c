"""Comparison of initialisations: repeated trials of the same detector, their statistics, and tables as in the paper.

A study starts commands and reads their logs. It is in this package because it must not wait for PyTorch and detectron2,
which `mocodet.detection` imports.
"""
