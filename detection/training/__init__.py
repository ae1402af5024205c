"""Fine-tuning: the checks before a run, the trainer, one training step, and checkpoints."""
