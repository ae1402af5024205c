"""Preparation of data sets, as detectron2 and pre-training expect them: download, unpacking and layout."""
