"""Predictions of a trained model on unlabelled images."""
