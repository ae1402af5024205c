"""Which ResNet a file holds: architectures, layouts of checkpoints, and reading them without running their code."""
