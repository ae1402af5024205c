"""Configs: YAML files, the files that they are based on, KEY VALUE pairs, and how all are merged over defaults."""
