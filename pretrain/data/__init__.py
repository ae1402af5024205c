"""Loads images: their sources, their order, and the views computed from each image."""
