"""The modules of ``tools/soak.py``."""
