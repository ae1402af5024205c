"""The ``mocodet`` command line: a table of commands, and one file per command that defines its arguments.

Nothing in this folder imports PyTorch or detectron2, so help texts and argument errors appear immediately. The module
that implements a command is imported only after the arguments have been parsed.
"""
