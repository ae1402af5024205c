"""The ResNet in a file: architectures, layouts of checkpoints, and reading them without running their code."""
