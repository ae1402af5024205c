"""Evaluation of encoder features with nearest neighbours and linear classifiers, and of classifier accuracy."""
