"""Checks of data set files, one module per data set, built on the readers for the formats."""
