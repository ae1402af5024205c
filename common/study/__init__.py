"""Comparison of initialisations: repeated trials of the same detector, their statistics, and tables like the paper's.

A study starts commands and reads their logs. It is not in `mocodet.detection`, because that package imports PyTorch and
detectron2, which would delay every command of a study.
"""
