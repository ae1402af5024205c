"""The page of a study or of a pre-training run: what was measured, in one file that needs nothing else.

It reads files that studies and runs leave, draws its charts itself, and imports no PyTorch.
"""
