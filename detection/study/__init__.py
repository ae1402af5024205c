"""Comparing initialisations: repeated trials of the same detector, their statistics, and the paper's kind of table."""
