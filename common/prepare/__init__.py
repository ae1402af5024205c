"""Preparation of data sets for detectron2 and pre-training: download, unpacking and folder layout."""
