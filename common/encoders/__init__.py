"""The ResNet in a file: architectures, checkpoint layouts, and reading checkpoints without executing their code."""
