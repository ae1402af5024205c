"""The command ``mocodet``: one table of commands, and one file with the arguments of each.

Nothing in this folder imports PyTorch or detectron2, so that help and the refusal of a bad flag come at once. The
module that does a command's work is imported after its arguments are parsed.
"""
