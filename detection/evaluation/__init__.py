"""Metrics: the package `kinds` has one module for each ``evaluator_type``; the other modules are shared by them."""
