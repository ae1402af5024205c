"""Fine-tuning: checks before a run, the trainer, the training step, and checkpoints."""
