"""Configs: YAML files, their bases, KEY VALUE pairs, and how these are merged over the defaults."""
