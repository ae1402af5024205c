"""Estimates the costs of a pre-training run before it starts."""
