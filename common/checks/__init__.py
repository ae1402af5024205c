"""Checks of the files of data sets: one module for each data set, on top of the readers of formats."""
