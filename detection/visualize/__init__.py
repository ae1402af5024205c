"""Draws the ground truth of images beside the predictions of multiple runs."""
