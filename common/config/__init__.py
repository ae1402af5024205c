"""Configs: YAML files, their bases, KEY VALUE pairs, and merging these over defaults."""
