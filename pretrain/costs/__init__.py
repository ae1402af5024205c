"""What a pre-training run costs, counted before it starts."""
