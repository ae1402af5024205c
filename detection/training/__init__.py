"""Fine-tuning: what is checked before a run, the trainer, one step of it, and its checkpoints."""
