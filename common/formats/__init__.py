"""Readers for image and annotation formats, one per format, shared by data loaders, evaluators and checks."""

# Number of pixels above which Pillow warns that decoding may exhaust the memory; users must allow larger images.
MAX_PIXELS = 178_956_970
