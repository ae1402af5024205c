"""The costs of a pre-training run, counted before it starts."""
