"""The command ``mocodet``: one table of commands, and a file with the arguments of each.

Nothing in this folder imports PyTorch or detectron2: help, and the refusal of a bad flag, answer at once. The module
that does a command's work is imported after its arguments are parsed.
"""
