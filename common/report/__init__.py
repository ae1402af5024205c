"""The report on a study or a pre-training run: a self-contained HTML page with all results.

This package reads the files that studies and runs write, draws its own charts, and does not import PyTorch.
"""
