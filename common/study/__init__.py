"""Comparing initialisations: repeated trials of the same detector, their statistics, and the paper's kind of table.

A study starts commands and reads their logs. It lies here, for it must not wait for PyTorch and detectron2, which
`mocodet.detection` imports.
"""
