"""Metrics: one file in `kinds` for each ``evaluator_type``, and the parts that these share."""
