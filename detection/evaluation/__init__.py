"""Metrics: one file in `kinds` for each ``evaluator_type``, and what these are made of."""
