"""Evaluation of an encoder's features: nearest neighbours, linear classifiers, accuracy of a classifier."""
