"""The page of a study or of a pre-training run: all results in one self-contained file.

It reads files that studies and runs write, draws its charts itself, and does not import PyTorch.
"""
